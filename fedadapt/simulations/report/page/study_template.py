"""The page of a comparison, a sweep or a reproduction: a jinja2 template that fills the frame."""

STUDY_PAGE = r"""{% extends "frame" %}
{%- macro chart(name, title) -%}
<figure class="chart" data-chart="{{ name }}" data-title="{{ title }}"></figure>
{%- endmacro -%}
{%- macro numbers(summary) -%}
<details><summary>{{ summary }}</summary><div class="scroll"><table>{{ caller() }}</table></div></details>
{%- endmacro -%}
{% block content %}
{% set entries = study.entries %}
<h2>{{ study.what_is_compared }}</h2>
<p class="soft">Accuracy on the clients' own test images, a row each; every client counts once. ± is the standard deviation over seeds, the best number of a column is bold. A click on a head sorts.</p>
<div class="scripted controls" hidden>
<label>find <input id="find" type="search" placeholder="words of a row"></label>
<span class="soft" id="count" aria-live="polite"></span>
</div>
<div class="scroll"><table id="entries"><thead><tr><th class="scripted" hidden title="shown in the charts">shown</th><th>method</th><th>client model</th>{% for key in study.settings %}<th class="n">{{ key }}</th>{% endfor %}{% for column in study.columns %}<th class="n">{{ column }}</th>{% endfor %}<th>runs, by seed</th></tr></thead><tbody>
{% for entry in entries %}<tr data-entry="{{ loop.index0 }}"><td class="scripted" hidden><label class="chip"><input type="checkbox" checked aria-label="show {{ entry.title }} in the charts"><i style="color:var(--c{{ loop.index0 }})">{{ glyphs[loop.index0] }}</i></label></td><td data-value="{{ entry.name }}">{{ entry.name }}</td><td data-value="{{ entry.label }}">{{ entry.label }}</td>{% for value in entry.settings %}<td class="n" data-value="{{ value }}">{{ value }}</td>{% endfor %}{% for cell in entry.cells %}<td class="n{{ ' strong' if cell.best }}" data-value="{{ '' if cell.value is none else cell.value }}">{{ cell.text }}</td>{% endfor %}<td class="links">{% for link in entry.links %}<a href="{{ link.address }}">{{ link.text }}</a> {% endfor %}</td></tr>
{% endfor %}</tbody></table></div>
<div class="scripted controls" hidden><button id="all">show all in the charts</button><button id="none">none</button><span class="soft" id="shown" aria-live="polite"></span></div>

{% if curves.entries %}<h2>Accuracy by {{ study.step }}</h2>
<p class="soft">Mean over clients and seeds; a band reaches from the lowest seed to the highest.</p>
<div class="scripted" hidden>{{ chart('curves', 'Accuracy by ' ~ study.step) }}</div>
{% call numbers('the numbers: mean over seeds, %') %}<thead><tr><th class="n">{{ study.step }}</th>{% for entry in curves.entries %}<th class="n wrapped">{{ entry.title }}</th>{% endfor %}</tr></thead><tbody>
{% for step, means in curves.rows %}<tr><td class="n">{{ step }}</td>{% for mean in means %}<td class="n">{{ mean | percent }}</td>{% endfor %}</tr>
{% endfor %}</tbody>{% endcall %}{% endif %}

{% if study.axes %}<h2>What the settings do</h2>
<p class="soft">Mean accuracy at each value that was tried; a band reaches from the lowest seed to the highest. The numbers are in the table above.</p>
<div class="scripted" hidden><div class="controls"><label>setting <select id="axis"></select></label></div>{{ chart('axis', 'Accuracy by setting') }}</div>{% endif %}

{% if study.has_published %}<h2>Published and measured</h2>
<p class="soft">Full: measured here, with a line from the lowest seed to the highest; hollow: published.</p>
<div class="scripted" hidden>{{ chart('published', 'Published and measured accuracy') }}</div>
{% call numbers('the numbers') %}<thead><tr><th>method</th><th class="n">published</th><th class="n">measured</th><th class="n">difference</th></tr></thead><tbody>
{% for entry in entries if entry.published is not none %}<tr><td>{{ entry.title }}</td><td class="n">{{ entry.published | percent }}</td><td class="n">{{ entry.mean | percent }}</td><td class="n">{{ (entry.mean - entry.published) | points }}</td></tr>
{% endfor %}</tbody>{% endcall %}{% endif %}

{% if study.has_matrix %}<h2>Task by task</h2>
<p class="soft">Mean accuracy on each task after each task was learnt, %.</p>
<div class="scripted" hidden><div class="controls"><label>row <select id="matrix-of"></select></label></div>{{ chart('matrix', 'Accuracy on each task after each task') }}</div>
{% call numbers('the numbers: after each task') %}<thead><tr><th>method</th><th class="n">forgetting</th><th class="n">after task</th>{% for task in range(study.num_tasks) %}<th class="n">task {{ task + 1 }}</th>{% endfor %}</tr></thead><tbody>
{% for entry in entries if entry.matrix %}{% for row in entry.matrix %}<tr><td>{{ entry.title }}</td><td class="n">{{ entry.forgetting | points if loop.last else '' }}</td><td class="n">{{ loop.index }}</td>{% for accuracy in row %}<td class="n">{{ accuracy | percent }}</td>{% endfor %}</tr>
{% endfor %}{% endfor %}</tbody>{% endcall %}{% endif %}

{% if ranks %}<h2>Ranks over clients</h2>
<p class="soft">Every client ranks the rows by its own accuracy, 1 is the best; a mark is the mean. Rows beside one bar do not differ: their mean ranks are closer than the critical difference at 5 % (Nemenyi's test, <i>Demšar 2006</i>). Clients share models, so they are not independent: this tells of these clients, not of other federations.</p>
<div class="scripted" hidden>{% if study.populations | length > 1 %}<div class="controls"><label>clients of <select class="population"></select></label></div>{% endif %}{{ chart('ranks', 'Mean ranks over clients with the critical difference') }}<p class="soft" id="ranks-note"></p></div>
{% for population, found in ranks %}{% call numbers('the numbers' ~ (': ' ~ population if population)) %}<thead><tr><th>row</th><th class="n">mean rank</th><th>does not differ from</th></tr></thead><tbody>
{% for place in range(found.methods | length) %}<tr><td>{{ entries[found.methods[place]].title }}</td><td class="n">{{ '%.2f' | format(found.mean[place]) }}</td><td>{% set others = [] %}{% for other in range(found.methods | length) if other != place and (found.mean[other] - found.mean[place]) | abs < found.difference %}{{ '; ' if not loop.first }}{{ entries[found.methods[other]].title }}{% endfor %}</td></tr>
{% endfor %}</tbody>{% endcall %}{% endfor %}{% endif %}

{% if study.has_costs %}<h2>What it costs</h2>
<p class="soft">Sent and received in training by all clients together, and CPU time on clients, mean over seeds; a line reaches from the lowest seed to the highest. The numbers are in the table above.</p>
<div class="charts scripted" hidden>{{ chart('bytes', 'Accuracy against traffic') }}{% if study.has_seconds %}{{ chart('seconds', 'Accuracy against CPU time on clients') }}{% endif %}</div>{% endif %}

{% if gains %}<h2>Gain of each client over {{ study.reference }}</h2>
<p class="soft">A mark a client, its mean over seeds; the large one is the mean over clients. Left of zero a client would do better with {{ study.reference }}.{% if left_out > 1 %} One of {{ left_out }} clients is drawn; means are over all.{% endif %} A click on a mark shows the client with every row.</p>
<div class="scripted" hidden>{% if study.populations | length > 1 %}<div class="controls"><label>clients of <select class="population"></select></label></div>{% endif %}{{ chart('gains', 'Gain of each client over ' ~ study.reference) }}
<section id="client" hidden aria-live="polite"><button id="client-close">close</button><h3 id="client-title"></h3><div class="scroll"><table><thead><tr><th>row</th><th class="n">accuracy</th><th class="n">gain</th><th>its page</th></tr></thead><tbody></tbody></table></div></section></div>
{% call numbers('the numbers: points') %}<thead><tr><th>row</th><th class="n">mean</th><th class="n">least</th><th class="n">lowest tenth</th><th class="n">median</th><th class="n">highest tenth</th><th class="n">most</th><th class="n">worse off</th></tr></thead><tbody>
{% for entry, found in gains %}<tr><td>{{ entry.title }}</td><td class="n strong">{{ found.mean | points }}</td>{% for value in found.quantiles %}<td class="n">{{ value | points }}</td>{% endfor %}<td class="n{{ ' worse' if found.worse }}">{{ found.worse }} of {{ found.clients }}</td></tr>
{% endfor %}</tbody>{% endcall %}{% endif %}

{% for grid in study.grids %}<h2>{{ grid.title }}</h2>
<div class="scroll"><table class="grid"><thead><tr>{% for head in grid.heads %}<th{% if loop.index0 > 1 %} class="n wrapped"{% endif %}>{{ head }}</th>{% endfor %}</tr></thead><tbody>
{% for line in grid.lines %}<tr>{% for cell in line %}<td{% if loop.index0 > 1 %} class="n"{% endif %}>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{% for note in grid.notes %}<p class="soft">{{ note }}</p>
{% endfor %}{% endfor %}
{% endblock %}
"""
