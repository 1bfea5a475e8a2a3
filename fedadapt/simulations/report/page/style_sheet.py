"""How the pages look: in light, in dark, on paper, and on a telephone."""

CSS = r"""
:root { --ink: #1f2430; --soft: #626b7a; --line: #e3e6eb; --page: #ffffff; --panel: #f6f7f9; --accent: #0072b2; --worse: #b84a00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ec; --soft: #9aa3b2; --line: #2f3541; --page: #14171d; --panel: #1c2028; --accent: #56b4e9; --worse: #ff9a52; } }
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
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(148px, 1fr)); gap: 0.9rem; margin: 2rem 0 1.6rem; }
.card { background: var(--panel); border-radius: 12px; padding: 1rem 1.1rem; }
.card b { display: block; font-size: 1.5rem; line-height: 1.35; white-space: nowrap; font-weight: 650; letter-spacing: -0.02em; font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: 0.88rem; }
.card .name { font-weight: 600; }
.worse { color: var(--worse); }
/* What goes on to the right has a shade at its edge. */
.scroll { overflow-x: auto; background: linear-gradient(to left, var(--page) 30%, transparent) right -2px top 0 / 2.6rem 100% local no-repeat, linear-gradient(to left, var(--line), transparent) right / 1rem 100% scroll no-repeat, var(--page); }
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
select { max-width: min(15rem, 80vw); }
#matrix-of, select.population { max-width: min(30rem, 90vw); }
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
caption { text-align: left; font-weight: 600; font-size: 0.92rem; padding-top: 0.6rem; }
#entries td { white-space: nowrap; }
#entries tr.looked td, #entries tbody tr:hover td { background: var(--panel); }
a { color: var(--accent); }
.chip i { font-style: normal; margin-left: 0.3em; }
.chip { display: inline-flex; align-items: center; }
th.wrapped { white-space: normal; min-width: 6rem; vertical-align: bottom; }
.grid td:nth-child(-n+2) { white-space: normal; min-width: 7rem; }
[data-chart] g { transition: opacity 0.1s; }
@media (max-width: 600px) {
  main { padding: 1.5rem 1rem 3rem; }
  h1 { font-size: 1.45rem; }
  h2 { margin-top: 2.2rem; }
  .cards { grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 0.7rem; }
  .card b { font-size: 1.25rem; }
  .columns { columns: 1; }
  td.bar { display: none; }
  th.bar { display: none; }
  figure[role=img] { overflow-x: auto; }
  figure[role=img] svg { min-width: 680px; }  /* pictures whose letters would be too small */
  caption { display: block; width: 78vw; }
  .scroll:not(.all) > table:not(.facts) :is(td, th):first-child { position: sticky; left: 0; background: var(--page); padding-right: 0.7rem; }
}
@media print {
  :root { --ink: #1f2430; --soft: #626b7a; --line: #e3e6eb; --page: #ffffff; --panel: #f6f7f9; --accent: #0072b2; --worse: #b84a00; }
  :root { font-size: 12px; }
  main { max-width: none; padding: 0; }
  body { font-size: 1rem; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  h2, h3, h2 + p, h3 + p, caption, .legend, .controls + p, #client-note { break-after: avoid; }
  .cards { grid-template-columns: repeat(auto-fit, minmax(100px, 1fr)); gap: 0.6rem; margin: 1rem 0; }
  .card { padding: 0.7rem 0.8rem; }
  h2 { margin-top: 2rem; }
  figure, .card, .chart, tr { break-inside: avoid; }
  .scroll, .all { overflow: visible; max-height: none; background: none; }
  .all thead th { position: static; }
  table { font-size: 0.82rem; }
  th, td { padding: 0.25rem 0.4rem; }
  thead th { white-space: normal; font-size: inherit; }
  .controls, button.more, #client-close, #entries .scripted { display: none; }
  th button { white-space: normal; text-align: inherit; }
  td.bar, th.bar { display: none; }
  #entries { font-size: 0.62em; }
  #entries th, #entries td { padding: 0.2rem 0.25rem; white-space: normal; }
  #entries .links { display: none; }
  #entries th:last-child { display: none; }
}
"""
