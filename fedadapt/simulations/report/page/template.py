"""The page of a report, a jinja2 template; a module, since Flower ships apps without templates."""

PAGE = r"""{%- macro accuracy_table(rows) -%}
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
{%- macro legend(labels, colours, worse=true) -%}
<ul class="legend">{% for label in labels %}<li><i style="background:{{ colours[label] }}"></i>{{ label }}</li>{% endfor %}{% if worse %}<li><i style="background:var(--worse)"></i>worse than what it is compared with</li>{% endif %}</ul>
{%- endmacro -%}
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ title }} · fedadapt</title>
<style>
:root { --ink: #1f2430; --soft: #626b7a; --line: #e3e6eb; --page: #ffffff; --panel: #f6f7f9; --accent: #0072b2; --worse: #b84a00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ec; --soft: #9aa3b2; --line: #2f3541; --page: #14171d; --panel: #1c2028; --accent: #56b4e9; --worse: #ff9a52; } }
{{ label_colours }}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; -webkit-font-smoothing: antialiased; }
main { max-width: 1040px; margin: 0 auto; padding: 3rem 1.5rem 5rem; }
header p { margin: 0; color: var(--soft); }
h1 { font-size: 1.9rem; line-height: 1.2; letter-spacing: -0.015em; margin: 0.2rem 0 0.5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; letter-spacing: -0.01em; margin: 3.2rem 0 0.4rem; }
h3 { font-size: 0.95rem; margin: 1.8rem 0 0.3rem; }
p { margin: 0.3rem 0 0.9rem; max-width: 46rem; }
.soft { color: var(--soft); font-size: 0.92rem; }
.notice { border-left: 4px solid var(--worse); background: var(--panel); border-radius: 0 8px 8px 0; padding: 0.8rem 1.1rem; margin: 1.5rem 0 0; max-width: none; overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); gap: 1rem; margin: 2rem 0 1.6rem; }
.card { background: var(--panel); border-radius: 12px; padding: 1rem 1.1rem; }
.card b { display: block; font-size: 1.5rem; line-height: 1.35; white-space: nowrap; font-weight: 650; letter-spacing: -0.02em; font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: 0.88rem; }
.card .name { font-weight: 600; }
.worse { color: var(--worse); }
.scroll { overflow-x: auto; }
td:first-child { white-space: nowrap; }
.facts td, .facts th { white-space: normal; }
table { border-collapse: collapse; width: 100%; font-size: 0.92rem; font-variant-numeric: tabular-nums; margin: 0.6rem 0 0.4rem; }
th, td { text-align: left; padding: 0.42rem 0.7rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th:first-child, td:first-child { padding-left: 0; }
thead th { color: var(--soft); font-weight: 500; font-size: 0.84rem; white-space: nowrap; }
.n { text-align: right; white-space: nowrap; }
.strong { font-weight: 650; }
td.bar { width: 18%; min-width: 90px; vertical-align: middle; }
td.bar i { display: block; height: 8px; border-radius: 4px; background: var(--accent); opacity: 0.75; }
.facts th { font-weight: 500; color: var(--soft); white-space: nowrap; width: 1%; }
.facts td { overflow-wrap: anywhere; font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: 0.86rem; }
.columns { columns: 2; column-gap: 2.5rem; }
.columns tr { break-inside: avoid; }
figure { margin: 1.2rem 0 0; }
figure svg { width: 100%; height: auto; display: block; overflow: visible; }
details summary { cursor: pointer; color: var(--soft); }
footer { margin-top: 4rem; color: var(--soft); font-size: 0.86rem; border-top: 1px solid var(--line); padding-top: 1rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); gap: 1.5rem; }
.chart { min-height: 120px; }
.chart svg { width: auto; max-width: 100%; }
.legend { display: flex; flex-wrap: wrap; gap: 0.2rem 1.2rem; margin: 0.6rem 0 0.2rem; padding: 0; list-style: none; font-size: 0.88rem; }
.legend i { display: inline-block; width: 0.75em; height: 0.75em; border-radius: 50%; margin-right: 0.4em; }
.controls { display: flex; flex-wrap: wrap; gap: 0.6rem 1.4rem; align-items: end; margin: 0.8rem 0; font-size: 0.9rem; }
.controls label { color: var(--soft); }
select, input[type=search], button { font: inherit; color: inherit; background: var(--panel); border: 1px solid var(--line); border-radius: 7px; padding: 0.3rem 0.6rem; }
select { max-width: 15rem; }
button { cursor: pointer; }
th button { background: none; border: 0; padding: 0; color: inherit; white-space: nowrap; }
th[aria-sort=ascending] button::after { content: " \2191"; }
th[aria-sort=descending] button::after { content: " \2193"; }
.all { max-height: 30rem; overflow: auto; }
.all thead th { position: sticky; top: 0; background: var(--page); }
.all tbody tr { cursor: pointer; }
.all tbody tr:hover, .all tr.looked { background: var(--panel); }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
circle.ring { fill: none; stroke: currentColor; stroke-width: 2; pointer-events: none; }
#client { border: 1px solid var(--line); border-radius: 12px; padding: 1rem 1.2rem; margin-top: 1.2rem; }
#client h3 { margin: 0; }
#client-close { float: right; }
@media (max-width: 600px) {
  main { padding: 1.5rem 1rem 3rem; }
  h1 { font-size: 1.45rem; }
  h2 { margin-top: 2.2rem; }
  .cards { grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 0.7rem; }
  .card b { font-size: 1.25rem; }
  .columns { columns: 1; }
  td.bar { display: none; }
  th.bar { display: none; }
}
@media print {
  :root { --ink: #1f2430; --soft: #626b7a; --line: #e3e6eb; --page: #ffffff; --panel: #f6f7f9; --accent: #0072b2; --worse: #b84a00; }
  main { max-width: none; padding: 0; }
  body { font-size: 12px; }
  h2, h3 { break-after: avoid; }
  figure, .card, .chart, tr { break-inside: avoid; }
  .scroll, .all { overflow: visible; max-height: none; }
  .all thead th { position: static; }
  table { font-size: 0.8em; }
  th, td { padding: 0.25rem 0.4rem; }
  thead th { white-space: normal; }
  .controls, button.more, #client-close { display: none; }
}
</style>
</head>
<body>
<main>
<header>
<p>{{ folder }}</p>
<h1>{{ title }}</h1>
{% if line %}<p>{{ line }}</p>{% endif %}
{% if notice %}<p class="notice">{{ notice }}</p>{% endif %}
</header>

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
{% if rounds %}<details><summary>the numbers: mean over clients, and deciles</summary>
<div class="scroll"><table><thead><tr><th class="n">round</th><th class="n">mean</th><th class="n">lowest tenth up to</th><th class="n">highest tenth from</th><th class="n">clients</th></tr></thead><tbody>
{% for row in rounds %}<tr><td class="n">{{ row.round }}</td><td class="n">{{ row.mean | percent }}</td><td class="n">{{ row.low | percent }}</td><td class="n">{{ row.high | percent }}</td><td class="n">{{ row.clients }}</td></tr>
{% endfor %}</tbody></table></div></details>{% endif %}{% endif %}

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
<div class="scroll"><table id="client-messages"><caption class="soft">What reached this client and what left it: payload in MB</caption><thead><tr><th>message</th><th>for</th><th class="n">times</th><th class="n">MB down</th><th class="n">MB up</th><th class="n">not used</th></tr></thead><tbody></tbody></table></div>
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
{% endfor %}</tbody></table></div>{% endif %}

{% if tasks %}<h2>Task by task</h2>
<p class="soft">Mean accuracy on each task after each task was learnt; forgetting is what was lost since a task was new, in points.</p>
<div class="scripted" hidden><figure class="chart" data-chart="tasks" data-title="Accuracy on each task after each task"></figure></div>
<div class="scroll"><table><thead><tr><th>client model</th><th class="n">accuracy</th><th class="n">forgetting</th>{% for task in range(num_tasks) %}<th class="n">task {{ task + 1 }}</th>{% endfor %}</tr></thead><tbody>
{% for label, s in tasks.items() %}<tr><td>{{ label }}</td><td class="n strong">{{ s.accuracy | percent }}</td><td class="n">{{ s.forgetting | points }}</td>{% for accuracy in s.matrix[-1] %}<td class="n">{{ accuracy | percent }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>{% endif %}

{% for section in figures %}<h2>{{ section.title }}</h2>
{% if section.note %}<p class="soft">{{ section.note }}</p>{% endif %}
{% for svg in section.svgs %}<figure role="img" aria-label="{{ section.title }}">{{ svg }}</figure>
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

<footer>Written by fedadapt. Definitions: docs/evaluation.md. Adaptation and every choice use a client's train and adapt images only; test images are for these numbers.</footer>
</main>
<script type="application/json" id="run">{{ data }}</script>
<script>{{ library }}</script>
<script>{{ script }}</script>
</body>
</html>
"""
