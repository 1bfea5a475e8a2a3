"""The page of a run, a jinja2 template that fills the frame."""

RUN_PAGE = r"""{% extends "frame" %}
{%- macro accuracy_table(rows) -%}
<div class="scroll"><table>
<thead><tr><th>client model</th><th class="n">mean</th><th class="bar"></th><th class="n">std</th><th class="n">worst 10 %</th><th class="n">min</th><th class="n">gain</th><th class="n">made worse</th><th class="n">over local</th><th class="n">below local</th><th class="n">clients</th></tr></thead>
<tbody>
{% for label, s in rows.items() %}<tr><td>{{ label }}</td><td class="n strong">{{ s.mean | percent }}</td><td class="bar"><i style="width:{{ '%.1f' | format(100 * (s.mean or 0)) }}%"></i></td><td class="n">{{ s.std | percent }}</td><td class="n">{{ s.worst10 | percent }}</td><td class="n">{{ s.min | percent }}</td><td class="n">{{ '–' if label == 'base' else s.gain | points }}</td><td class="n{{ ' worse' if s.share_worse }}">{{ '–' if label == 'base' else s.share_worse | percent }}</td><td class="n{{ ' worse' if s.over_local and s.over_local < 0 }}">{{ '–' if label == 'local' else s.over_local | points }}</td><td class="n">{{ '–' if label == 'local' else s.share_below_local | percent }}</td><td class="n">{{ s.num_clients }}</td></tr>
{% endfor %}</tbody></table></div>
{%- endmacro -%}
{%- macro client_table(rows, label) -%}
<div class="scroll"><table>
<thead><tr><th class="n">client</th><th>kind</th><th></th><th class="n">test images</th><th class="n">base</th>{% if label %}<th class="n">{{ label }}</th><th class="n">gain</th>{% endif %}</tr></thead>
<tbody>
{% for d in rows %}<tr><td class="n">{{ d.client }}</td><td>{{ d.kind }}</td><td>{{ '' if d.seen else 'unseen' }}</td><td class="n">{{ d.num_examples }}</td><td class="n">{{ d.base | percent }}</td>{% if label %}<td class="n">{{ d.after | percent }}</td><td class="n{{ ' worse' if d.gain is not none and d.gain < 0 }}">{{ d.gain | points }}</td>{% endif %}</tr>
{% endfor %}</tbody></table></div>
{%- endmacro -%}
{%- macro facts(rows) -%}
<div class="scroll"><table class="facts"><tbody>
{% for key, value in rows.items() %}<tr><th>{{ key }}</th><td>{{ value }}</td></tr>
{% endfor %}</tbody></table></div>
{%- endmacro -%}
{%- macro numbers(summary) -%}
<details><summary>{{ summary }}</summary><div class="scroll"><table>{{ caller() }}</table></div></details>
{%- endmacro -%}
{%- macro legend(labels, colours, worse=true) -%}
<ul class="legend">{% for label in labels %}<li><i style="background:{{ colours[label] }}"></i>{{ label }}</li>{% endfor %}{% if worse %}<li><i style="background:var(--worse)"></i>worse than what it is compared with</li>{% endif %}</ul>
{%- endmacro -%}
{% block content %}
{% if cards %}<section class="cards">
{% for card in cards %}<div class="card"><span class="name">{{ card.name }}</span><b{% if card.worse %} class="worse"{% endif %}>{{ card.value }}</b><span>{{ card.note }}</span></div>
{% endfor %}</section>{% endif %}

{% if accuracy %}<h2>Accuracy on the clients' own test images</h2>
<p class="soft">{{ 'Clients that took part in training, after' if unseen else 'After' }} round {{ round }}; {{ asked }}every client counts once. Gain is over the base model on the same client, in points; over local: over what the client gets by training alone, never federated.</p>
{{ accuracy_table(accuracy) }}
{% elif evaluated %}<h2>Accuracy</h2><p class="soft">No client that took part in training has been evaluated.</p>{% endif %}
{% if unseen %}<h3>Unseen clients</h3>
<p class="soft">Held out of training: nothing that they know went into any model.</p>
{{ accuracy_table(unseen) }}{% endif %}
{% if global_test %}<h3>Balanced global test</h3>
<p class="soft">One test for everybody: what a client's model still knows beyond its own images.</p>
<div class="scroll"><table><thead><tr><th>client model</th><th class="n">mean</th></tr></thead><tbody>
{% for label, mean in global_test.items() %}<tr><td>{{ label }}</td><td class="n strong">{{ mean | percent }}</td></tr>
{% endfor %}</tbody></table></div>{% endif %}

{% if rounds or losses %}<h2>Convergence</h2>
{% if convergence_note %}<p class="soft">{{ convergence_note }}</p>{% endif %}
<div class="charts scripted" hidden>
{% if rounds %}<figure class="chart" data-chart="convergence" data-title="Accuracy of the base model by round"></figure>{% endif %}
{% if losses %}<figure class="chart" data-chart="loss" data-title="Training loss by round"></figure>{% endif %}
</div>
{% if rounds %}{% call numbers('the numbers: mean over clients, and deciles') %}<thead><tr><th class="n">round</th><th class="n">mean</th><th class="n">lowest tenth up to</th><th class="n">highest tenth from</th><th class="n">clients</th></tr></thead><tbody>
{% for row in rounds %}<tr><td class="n">{{ row.round }}</td><td class="n">{{ row.mean | percent }}</td><td class="n">{{ row.low | percent }}</td><td class="n">{{ row.high | percent }}</td><td class="n">{{ row.clients }}</td></tr>
{% endfor %}</tbody>{% endcall %}{% endif %}
{% if losses %}{% call numbers('the numbers: training loss') %}<thead><tr><th class="n">round</th><th class="n">loss</th><th class="n">clients</th></tr></thead><tbody>
{% for round, loss, clients in losses %}<tr><td class="n">{{ round }}</td><td class="n">{{ '%.4f' | format(loss) if loss == loss else '–' }}</td><td class="n">{{ clients }}</td></tr>
{% endfor %}</tbody>{% endcall %}{% endif %}{% endif %}

{% if num_clients %}<h2>Client by client</h2>
<p class="soft">One mark a client; a click on it, or on a row, opens the client's own page.</p>
{{ legend(labels, colours) }}
<div class="scripted" hidden>
<div class="controls">
<label>model <select id="pick-label"></select></label>
<label>compared with <select id="pick-reference"></select></label>
<label>as <select id="pick-view"></select></label>
</div>
<p class="soft" id="clients-note" aria-live="polite"></p>
<figure id="clients-chart" class="chart"></figure>
<section id="client" hidden aria-live="polite">
<button id="client-close">close</button>
<h3 id="client-title"></h3>
<p class="soft" id="client-note"></p>
<div class="charts"><figure id="client-models" class="chart"></figure><figure id="client-history" class="chart"></figure></div>
<details id="client-rounds" hidden><summary>the numbers: accuracy by round</summary><div class="scroll"><table><thead></thead><tbody></tbody></table></div></details>
<div class="scroll"><table id="client-images"><caption>Its images by class</caption><thead><tr><th>class</th><th class="n">train</th><th class="n">adapt</th><th class="n">test</th><th class="bar"></th></tr></thead><tbody></tbody></table></div>
<p class="soft" id="client-left"></p>
<div class="scroll"><table id="client-messages"><caption>What reached this client and what left it: payload in MB</caption><thead><tr><th>message</th><th>for</th><th class="n">times</th><th class="n">MB down</th><th class="n">MB up</th><th class="n">not used</th></tr></thead><tbody></tbody></table></div>
</section>
<h3>All clients</h3>
<div class="controls">
<label>find <input id="clients-filter" type="search" placeholder="number, kind, unseen"></label>
<label><input id="clients-worse" type="checkbox"> only those made worse</label>
<span class="soft" id="clients-count"></span>
</div>
<div class="scroll all"><table id="clients-table"><thead></thead><tbody></tbody></table></div>
<button id="clients-more" class="more" hidden></button>
</div>{% endif %}

{% if sureness %}<h2>Confidence</h2>
<p class="soft">How sure a model is of an image is the probability of its prediction. Each client's temperature comes from its adapt images; the calibration error is that of all test images together.</p>
<div class="scripted" hidden><figure class="chart" data-chart="coverage" data-title="Accuracy against coverage"></figure></div>
<div class="scroll"><table><thead><tr><th>client model</th><th class="n">accuracy</th><th class="n">sure of</th><th class="n">calibration error</th><th class="n">sure of, calibrated</th><th class="n">calibration error, calibrated</th><th class="n">temperature, median</th><th class="n">AURC</th><th class="n">clients</th></tr></thead><tbody>
{% for label, s in sureness.items() %}<tr><td>{{ label }}</td><td class="n">{{ s.accuracy | percent }}</td><td class="n">{{ s.raw | percent }}</td><td class="n">{{ s.ece | percent }}</td><td class="n">{{ s.calibrated | percent }}</td><td class="n">{{ s.ece_calibrated | percent }}</td><td class="n">{{ '%.2f' | format(s.temperature) }}</td><td class="n">{{ '%.4f' | format(s.aurc) }}</td><td class="n">{{ s.num_clients }}</td></tr>
{% endfor %}</tbody></table></div>
{% call numbers('the numbers: accuracy on the images that are answered') %}<thead><tr><th class="n">answered</th>{% for label in sureness %}<th class="n">{{ label }}</th>{% endfor %}</tr></thead><tbody>
{% for share in coverages %}<tr><td class="n">{{ '%.0f' | format(100 * share) }} %</td>{% set at = loop.index0 %}{% for s in sureness.values() %}<td class="n">{{ s.by_coverage[at] | percent }}</td>{% endfor %}</tr>
{% endfor %}</tbody>{% endcall %}{% endif %}

{% if tasks %}<h2>Task by task</h2>
<p class="soft">Mean accuracy on each task after each task was learnt; forgetting is what was lost since a task was new, in points.</p>
<div class="scripted" hidden><figure class="chart" data-chart="tasks" data-title="Accuracy on each task after each task"></figure></div>
<div class="scroll"><table><thead><tr><th>client model</th><th class="n">accuracy</th><th class="n">forgetting</th>{% for task in range(num_tasks) %}<th class="n">task {{ task + 1 }}</th>{% endfor %}</tr></thead><tbody>
{% for label, s in tasks.items() %}<tr><td>{{ label }}</td><td class="n strong">{{ s.accuracy | percent }}</td><td class="n">{{ s.forgetting | points }}</td>{% for accuracy in s.matrix[-1] %}<td class="n">{{ accuracy | percent }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{% call numbers('the numbers: after each task') %}<thead><tr><th>client model</th><th class="n">after task</th>{% for task in range(num_tasks) %}<th class="n">task {{ task + 1 }}</th>{% endfor %}</tr></thead><tbody>
{% for label, s in tasks.items() %}{% for row in s.matrix %}<tr><td>{{ label }}</td><td class="n">{{ loop.index }}</td>{% for accuracy in row %}<td class="n">{{ accuracy | percent }}</td>{% endfor %}</tr>
{% endfor %}{% endfor %}</tbody>{% endcall %}{% endif %}

{% for section in figures %}<h2>{{ section.title }}</h2>
{% if section.note %}<p class="soft">{{ section.note }}</p>{% endif %}
{% for svg in section.svgs %}<figure role="img" aria-label="{{ section.title }}">{{ svg }}</figure>
{% endfor %}{% for table in section.numbers %}{% call numbers(table.summary) %}<thead><tr>{% for head in table.heads %}<th{% if loop.index0 %} class="n"{% endif %}>{{ head }}</th>{% endfor %}</tr></thead><tbody>
{% for line in table.lines %}<tr>{% for cell in line %}<td{% if loop.index0 %} class="n"{% endif %}>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody>{% endcall %}
{% endfor %}{% if section.groups %}<div class="scroll"><table><thead><tr><th class="n">group</th><th class="n">clients</th><th>of which kinds</th></tr></thead><tbody>
{% for row in section.groups %}<tr><td class="n">{{ row.group }}</td><td class="n">{{ row.num_clients }}</td><td>{% for kind, count in row.kinds %}{{ ', ' if not loop.first }}{{ kind or 'unknown' }}{{ ' (%d)' | format(count) if row.kinds | length > 1 }}{% endfor %}</td></tr>
{% endfor %}</tbody></table></div>
{% endif %}{% endfor %}

{% if kinds %}<h2>By kind of client</h2>
<p class="soft">Mean accuracy over the clients of a kind; gain over the base in points below it. A number in brackets is that of the clients a mean is over, where it is not all.</p>
{{ legend(labels, colours, worse=false) }}
<div class="scripted" hidden><figure class="chart" data-chart="kinds" data-title="Mean accuracy by kind of client"></figure></div>
<div class="scroll"><table><thead><tr><th>kind</th><th></th><th class="n">clients</th>{% for label in labels %}<th class="n">{{ label }}</th>{% endfor %}</tr></thead><tbody>
{% for row in kinds %}<tr><td>{{ row.kind }}</td><td>{{ '' if row.seen else 'unseen' }}</td><td class="n">{{ row.num_clients }}</td>{% for label in labels %}<td class="n">{{ row.accuracy.get(label) | percent }}{% if row.counted.get(label, 0) != row.num_clients %} <small class="soft">({{ row.counted.get(label, 0) }})</small>{% endif %}{% if label != 'base' and label in row.gain %}<br><small class="{{ 'worse' if row.gain[label] < 0 else 'soft' }}">{{ row.gain[label] | points }}</small>{% endif %}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>{% endif %}

{% if worst_off %}<h2>Clients worst off</h2>
<p class="soft">Lowest accuracy with {{ final or 'base' }}, the {{ worst_off | length }} lowest.</p>
{{ client_table(worst_off, final) }}{% endif %}
{% if most_harmed %}<h3>Made worse most</h3>
<p class="soft">Clients that {{ final }} took most from.</p>
{{ client_table(most_harmed, final) }}{% endif %}

{% if failures %}<h2>Results that are missing</h2>
<p class="soft">What failed on clients that answered; the means above are over the others.</p>
<div class="scroll"><table><thead><tr><th>client model</th><th>reason</th><th class="n">times</th><th>clients</th><th>rounds</th></tr></thead><tbody>
{% for row in failures %}<tr><td>{{ row.label }}</td><td>{{ row.reason }}</td><td class="n">{{ row.times }}</td><td>{{ row.clients }}</td><td>{{ row.rounds }}</td></tr>
{% endfor %}</tbody></table></div>{% endif %}

{% if communication %}<h2>Communication</h2>
<p class="soft">What travelled, message by message; messages of evaluation serve these numbers, not the model; payload in MB (10⁶ bytes), without the transport's overhead.</p>
<div class="scroll"><table><thead><tr><th>for</th><th>message</th><th class="n">sent</th>{% for outcome in outcomes %}<th class="n">{{ outcome }}</th>{% endfor %}<th class="n">MB down</th><th class="n">MB up</th><th class="n">client seconds</th></tr></thead><tbody>
{% for row in communication %}<tr><td>{{ row.phase }}</td><td>{{ row.action }}</td><td class="n">{{ row.messages }}</td>{% for outcome in outcomes %}<td class="n{{ ' worse' if outcome != 'accepted' and row.outcomes[outcome] }}">{{ row.outcomes[outcome] or '–' }}</td>{% endfor %}<td class="n">{{ row.bytes_down | megabytes }}</td><td class="n">{{ row.bytes_up | megabytes }}</td><td class="n">{{ '%.1f' | format(row.seconds) }}</td></tr>
{% endfor %}</tbody></table></div>
{% if reasons %}<h3>Answers that were not used</h3>
<div class="scroll"><table><thead><tr><th>outcome</th><th>message</th><th>reason</th><th class="n">times</th><th>clients</th><th>rounds</th></tr></thead><tbody>
{% for row in reasons %}<tr><td>{{ row.outcome }}</td><td>{{ row.action }}</td><td>{{ row.reason or '–' }}</td><td class="n">{{ row.times }}</td><td>{{ row.clients }}</td><td>{{ row.rounds }}</td></tr>
{% endfor %}</tbody></table></div>
{% if more_reasons %}<p class="soft">and {{ more_reasons }} more kinds of reason in communication.parquet.</p>{% endif %}{% endif %}{% endif %}

{% if manifest %}<h2>Who holds which images</h2>
{{ facts(manifest) }}{% endif %}

{% if config %}<h2>Configuration</h2>
<details open><summary>every value, resolved</summary>
<div class="columns">{{ facts(config) }}</div></details>{% endif %}
{% endblock %}
"""
