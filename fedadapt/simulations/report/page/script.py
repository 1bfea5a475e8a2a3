"""What the report page does in a browser; Python, since Flower ships apps without ``.js`` files.

The script draws the charts from the page's data with Observable Plot, fills and sorts the table of
clients, and shows a client's own page. Without it the page still has every number of its tables.
"""

SCRIPT = r"""
"use strict";
(() => {
const run = JSON.parse(document.getElementById("run").textContent);
const element = id => document.getElementById(id);
const percent = x => x === null || x === undefined ? "–" : (100 * x).toFixed(1) + " %";
const points = x => x === null ? "–" : ((x >= 0 ? "+" : "−") + Math.abs(100 * x).toFixed(1));
const megabytes = x => (x / 1e6).toLocaleString("en", {maximumFractionDigits: x < 1e6 ? 4 : 1});
const colour = label => `var(--c${run.labels.indexOf(label)})`;
const MANY = 400;  // clients; more are drawn smaller, and without lines

// One object a client: what the charts, the table and a client's own page show.
const clients = run.clients.client.map((client, i) => ({
  i, client,
  name: run.clients.name ? run.clients.name[i] : String(client),
  kind: run.kinds[run.clients.kind[i]],
  seen: !!run.clients.seen[i],
  images: run.clients.images[i],
  accuracy: Object.fromEntries(run.labels.map(label => {
    const value = run.clients.accuracy[label][i];
    return [label, value === null ? null : value / run.scale];
  })),
}));
const byClient = new Map(clients.map(client => [client.client, client]));
const state = {
  label: run.final || run.labels[run.labels.length - 1],
  reference: run.labels.includes("base") ? "base" : run.labels[0],
  view: "before", sort: "client", down: false, filter: "", worse: false, chosen: null, shown: 200,
};
// A page that is loaded anew while its run goes on looks as its reader left it.
const KEPT = "fedadapt " + location.pathname;
const keep = () => { try { sessionStorage.setItem(KEPT, JSON.stringify(state)); } catch { /* a file may have no storage */ } };
try {
  const kept = JSON.parse(sessionStorage.getItem(KEPT) || "{}");
  if (run.labels.includes(kept.label) && run.labels.includes(kept.reference)) Object.assign(state, kept);
} catch { /* nothing kept */ }
const gainOf = client => {
  const after = client.accuracy[state.label], before = client.accuracy[state.reference];
  return after === null || before === null ? null : after - before;
};
const isWorse = gain => gain !== null && gain < -1e-6;

// Tables and charts agree on who is looked at: a ring on the chart, a tint on the row.
function look(client) {
  document.querySelectorAll("tr.looked").forEach(row => row.classList.remove("looked"));
  const row = client && element("row-" + client.client);
  if (row) row.classList.add("looked");
  const chart = element("clients-chart").firstElementChild;
  if (!chart || !chart.querySelector) return;
  const old = chart.querySelector("circle.ring");
  if (old) old.remove();
  const place = client && positions.get(client.client);
  if (!place || !chart.scale) return;
  const ring = document.createElementNS("http://www.w3.org/2000/svg", "circle");
  const x = chart.scale("x"), y = chart.scale("y");
  ring.setAttribute("class", "ring");
  ring.setAttribute("cx", x.apply(place.x));
  ring.setAttribute("cy", y.apply(place.y));
  ring.setAttribute("r", 8);
  chart.append(ring);
}

const hover = client => [
  `client ${client.name}${client.seen ? "" : ", unseen"}`,
  client.kind && `kind ${client.kind}`,
  `${client.images} test images`,
  `${state.reference} ${percent(client.accuracy[state.reference])}`,
  state.label !== state.reference && `${state.label} ${percent(client.accuracy[state.label])}`,
  state.label !== state.reference && `gain ${points(gainOf(client))} points`,
].filter(Boolean).join("\n");

const width = holder => Math.max(300, Math.min(1040, holder.clientWidth || 720));
const base = (holder, more) => ({
  width: width(holder), marginLeft: 44, marginBottom: 38, style: {fontSize: "12px", background: "none", overflow: "visible"}, ...more,
});
const rounds = {label: "round →", tickFormat: round => Number.isInteger(round) ? String(round) : ""};
function place(holder, plot) { holder.replaceChildren(plot); return plot; }

let positions = new Map();  // client -> where its dot is on the chart of clients
const views = {
  before: {
    title: "before and after",
    draw(holder) {
      const known = clients.filter(c => gainOf(c) !== null);
      const sorted = known.sort((a, b) => a.accuracy[state.reference] - b.accuracy[state.reference]
        || a.accuracy[state.label] - b.accuracy[state.label]);
      const rows = sorted.map((client, i) => ({
        client, x: i + 1, y: 100 * client.accuracy[state.label], before: 100 * client.accuracy[state.reference],
      }));
      positions = new Map(rows.map(row => [row.client.client, row]));
      const many = rows.length > MANY, same = state.label === state.reference;
      const ink = row => isWorse(gainOf(row.client)) ? "var(--worse)" : colour(state.label);
      return Plot.plot(base(holder, {
        height: 380, x: {label: `clients, sorted by ${state.reference} →`, ticks: []},
        y: {label: "↑ accuracy, %", grid: true, domain: [0, 100]},
        marks: [
          same || many ? null : Plot.ruleX(rows, {x: "x", y1: "before", y2: "y", stroke: ink, strokeOpacity: .5}),
          many ? Plot.line(rows, {x: "x", y: "before", stroke: colour(state.reference), strokeWidth: 2})
               : Plot.dot(rows, {x: "x", y: "before", r: 3, fill: colour(state.reference)}),
          same ? null : Plot.dot(rows, {x: "x", y: "y", r: many ? 2 : 4, stroke: ink,
            fill: row => row.client.seen ? ink(row) : "var(--page)", fillOpacity: many ? .5 : 1, strokeOpacity: many ? .5 : 1}),
          Plot.tip(rows, Plot.pointer({x: "x", y: "y", title: row => hover(row.client), fill: "var(--panel)", maxRadius: 60})),
        ].filter(Boolean),
      }));
    },
  },
  gain: {
    title: "gain",
    draw(holder) {
      const rows = [];
      const kinds = [...new Set(clients.filter(c => c.seen).map(c => c.kind))].sort();
      const blocks = kinds.length > 1 && kinds.length <= 10
        ? kinds.map(kind => [kind, clients.filter(c => c.seen && c.kind === kind)])
        : [["", clients.filter(c => c.seen)]];
      if (clients.some(c => !c.seen)) blocks.push(["unseen", clients.filter(c => !c.seen)]);
      let x = 0; const means = [];
      for (const [name, members] of blocks) {
        const known = members.filter(c => gainOf(c) !== null).sort((a, b) => gainOf(b) - gainOf(a));
        if (!known.length) continue;
        const first = x;
        for (const client of known) rows.push({client, x: x++, y: 100 * gainOf(client)});
        const mean = known.reduce((sum, c) => sum + 100 * gainOf(c), 0) / known.length;
        means.push({x1: first - .4, x2: x - .6, y: mean, name, middle: (first + x - 1) / 2});
        x += Math.max(1, .03 * clients.length);
      }
      positions = new Map(rows.map(row => [row.client.client, row]));
      const thick = Math.max(1, Math.min(12, .7 * width(holder) / Math.max(1, x)));
      return Plot.plot(base(holder, {
        height: 360, marginBottom: 44, x: {axis: null}, y: {label: `↑ gain of ${state.label} over ${state.reference}, points`, grid: true},
        marks: [
          Plot.ruleX(rows, {x: "x", y1: 0, y2: "y", strokeWidth: thick, stroke: row => row.y < -1e-4 ? "var(--worse)" : colour(state.label),
            strokeOpacity: row => row.client.seen ? 1 : .5}),
          Plot.ruleY([0], {stroke: "currentColor"}),
          Plot.ruleY(means, {y: "y", x1: "x1", x2: "x2", stroke: "currentColor", strokeDasharray: "4 3"}),
          Plot.text(means, {x: "middle", frameAnchor: "bottom", dy: 18, text: row => row.name.slice(0, 14), fill: "currentColor"}),
          Plot.tip(rows, Plot.pointerX({x: "x", y: "y", title: row => hover(row.client), fill: "var(--panel)"})),
        ],
      }));
    },
  },
  distribution: {
    title: "distribution",
    draw(holder) {
      const rows = [];
      for (const label of run.labels) for (const client of clients)
        if (client.accuracy[label] !== null) rows.push({client, label, x: 100 * client.accuracy[label]});
      positions = new Map();
      const mean = run.labels.map(label => {
        const values = rows.filter(row => row.label === label).map(row => row.x);
        return {label, x: values.reduce((a, b) => a + b, 0) / values.length};
      });
      const longest = Math.max(...run.labels.map(label => label.length));
      return Plot.plot(base(holder, {
        height: 60 + 46 * run.labels.length, marginLeft: Math.min(150, 12 + 7 * longest),
        x: {label: "accuracy on a client's own test images, % →", domain: [0, 100], grid: true},
        y: {label: null, domain: run.labels, tickFormat: label => label.slice(0, 20)},
        marks: [
          Plot.tickX(rows, {x: "x", y: "label", stroke: row => colour(row.label), strokeOpacity: Math.max(.15, Math.min(.8, 60 / clients.length)), strokeWidth: 2}),
          Plot.dot(mean, {x: "x", y: "label", r: 6, fill: row => colour(row.label), stroke: "currentColor", strokeWidth: 1.5}),
          Plot.tip(rows, Plot.pointer({x: "x", y: "label", title: row => `${row.label} ${row.x.toFixed(1)} %\n${hover(row.client)}`, fill: "var(--panel)"})),
        ],
      }));
    },
  },
};

function drawClients() {
  const holder = element("clients-chart");
  if (!holder || !clients.length) return;
  const plot = place(holder, views[state.view].draw(holder));
  plot.addEventListener("input", () => look(plot.value && plot.value.client));
  plot.addEventListener("click", () => plot.value && choose(plot.value.client.client));
  plot.setAttribute("role", "img");
  plot.setAttribute("aria-label", `${views[state.view].title}: ${state.label} and ${state.reference}, ${clients.length} clients; the numbers are in the table of all clients`);
  const known = clients.filter(c => gainOf(c) !== null), worse = known.filter(c => isWorse(gainOf(c)));
  const mean = label => percent(known.reduce((sum, c) => sum + c.accuracy[label], 0) / Math.max(1, known.length));
  element("clients-note").textContent = state.label === state.reference
    ? `mean over ${known.length} clients: ${mean(state.label)}`
    : `mean over ${known.length} clients: ${mean(state.reference)} → ${mean(state.label)}; worse off: ${worse.length}`;
}

// The table of all clients.
const columns = [
  ["client", "client", c => c.client, c => c.name, true],
  ["kind", "kind", c => c.kind, c => c.kind + (c.seen ? "" : " (unseen)"), false],
  ["images", "test images", c => c.images, c => c.images, true],
  ...run.labels.map(label => ["a:" + label, label, c => c.accuracy[label], c => percent(c.accuracy[label]), true]),
  ["gain", "gain", gainOf, c => points(gainOf(c)), true],
];
function fillTable() {
  const table = element("clients-table");
  if (!table) return;
  const column = columns.find(([key]) => key === state.sort);
  const words = state.filter.toLowerCase().split(/\s+/).filter(Boolean);
  let rows = clients.filter(c => words.every(word =>
    c.name.toLowerCase() === word || c.kind.toLowerCase().includes(word) || (word === "unseen" && !c.seen)));
  if (state.worse) rows = rows.filter(c => isWorse(gainOf(c)));
  const value = column[2];
  rows = rows.slice().sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    const order = typeof x === "string" ? x.localeCompare(y) : x - y;
    return (state.down ? -order : order) || a.client - b.client;
  });
  const head = document.createElement("tr");
  for (const [key, title, , , isNumber] of columns) {
    const cell = document.createElement("th"), button = document.createElement("button");
    button.textContent = title + (key === "gain" ? ` of ${state.label}` : "");
    button.addEventListener("click", () => {
      if (state.sort === key) state.down = !state.down; else { state.sort = key; state.down = false; }
      keep(); fillTable();
    });
    cell.append(button);
    if (isNumber) cell.className = "n";
    if (state.sort === key) cell.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    head.append(cell);
  }
  table.tHead.replaceChildren(head);
  const body = rows.slice(0, state.shown).map(client => {
    const row = document.createElement("tr");
    row.id = "row-" + client.client;
    for (const [key, , , text, isNumber] of columns) {
      const cell = document.createElement("td");
      cell.textContent = text(client);
      if (isNumber) cell.className = "n";
      if (key === "gain" && isWorse(gainOf(client))) cell.classList.add("worse");
      row.append(cell);
    }
    row.tabIndex = 0;
    row.addEventListener("mouseenter", () => look(client));
    row.addEventListener("click", () => choose(client.client));
    row.addEventListener("keydown", event => { if (event.key === "Enter") choose(client.client); });
    return row;
  });
  table.tBodies[0].replaceChildren(...body);
  element("clients-count").textContent = rows.length === clients.length
    ? `${clients.length} clients` : `${rows.length} of ${clients.length} clients`;
  const more = element("clients-more");
  more.hidden = rows.length <= state.shown;
  more.textContent = `show ${Math.min(500, rows.length - state.shown)} more`;
}

// A client's own page.
function choose(number) {
  const client = byClient.get(number), section = element("client");
  if (!client) return;
  state.chosen = number;
  keep();
  history.replaceState(null, "", `#client=${number}`);
  section.hidden = false;
  element("client-title").textContent = `Client ${client.name}`;
  element("client-note").textContent = [client.kind, client.seen ? "took part in training" : "unseen: held out of training",
    `${client.images} test images`].filter(Boolean).join(" · ");
  const bars = run.labels.filter(label => client.accuracy[label] !== null).map(label => ({label, x: 100 * client.accuracy[label]}));
  const holder = element("client-models");
  const longest = Math.max(...bars.map(bar => bar.label.length));
  place(holder, Plot.plot(base(holder, {
    height: 46 + 30 * bars.length, marginLeft: Math.min(150, 12 + 7 * longest),
    x: {label: "accuracy on its own test images, % →", domain: [0, 100], grid: true}, y: {label: null, domain: bars.map(b => b.label)},
    marks: [
      Plot.barX(bars, {x: "x", y: "label", fill: bar => colour(bar.label), insetTop: 4, insetBottom: 4}),
      Plot.text(bars, {x: "x", y: "label", text: bar => bar.x.toFixed(1), dx: bars.some(b => b.x > 92) ? -20 : 18,
        fill: bars.some(b => b.x > 92) ? "white" : "currentColor"}),
    ],
  })));
  drawHistory(client);
  const messages = element("client-messages");
  const rows = run.messages.map(m => [m.action, m.phase, m.times[client.i], m.down[client.i], m.up[client.i], m.unused[client.i]])
    .filter(row => row[2]);
  messages.tBodies[0].replaceChildren(...rows.map(([action, phase, times, down, up, unused]) => {
    const row = document.createElement("tr");
    [[action], [phase], [times, "n"], [megabytes(down), "n"], [megabytes(up), "n"], [unused || "–", unused ? "n worse" : "n"]].forEach(([text, kind]) => {
      const cell = document.createElement("td");
      cell.textContent = text;
      if (kind) cell.className = kind;
      row.append(cell);
    });
    return row;
  }));
  messages.closest(".scroll").hidden = !rows.length;
  section.scrollIntoView({block: "nearest"});
}
function drawHistory(client) {
  const holder = element("client-history"), rows = [];
  for (const curve of run.history)
    curve.accuracy[client.i].forEach((value, i) => {
      if (value !== null) rows.push({label: curve.label, round: run.history_rounds[i], y: 100 * value / 1000});
    });
  holder.hidden = rows.length < 2;
  if (holder.hidden) return;
  place(holder, Plot.plot(base(holder, {
    height: 220, x: rounds, y: {label: "↑ accuracy, %", grid: true, domain: [0, 100]},
    marks: [
      Plot.line(rows, {x: "round", y: "y", z: "label", stroke: row => colour(row.label), marker: "dot"}),
      Plot.tip(rows, Plot.pointer({x: "round", y: "y", title: row => `round ${row.round}\n${row.label} ${row.y.toFixed(1)} %`, fill: "var(--panel)"})),
    ],
  })));
}
// Charts of the run as a whole.
const drawings = {
  convergence(holder) {
    const rows = run.rounds;
    return Plot.plot(base(holder, {
      height: 300, x: rounds, y: {label: "↑ accuracy of the base model, %", grid: true, domain: [0, 100]},
      marks: [
        Plot.areaY(rows, {x: "round", y1: row => 100 * row.low, y2: row => 100 * row.high, fill: colour("base"), fillOpacity: .18}),
        Plot.line(rows, {x: "round", y: row => 100 * row.mean, stroke: colour("base"), strokeWidth: 2, marker: rows.length < 40 ? "dot" : null}),
        Plot.tip(rows, Plot.pointerX({x: "round", y: row => 100 * row.mean, fill: "var(--panel)",
          title: row => `round ${row.round}\nmean ${percent(row.mean)}\nworst tenth up to ${percent(row.low)}\nbest tenth from ${percent(row.high)}\n${row.clients} clients`})),
      ],
    }));
  },
  loss(holder) {
    const rows = run.losses.map(([round, loss, count]) => ({round, loss, count}));
    return Plot.plot(base(holder, {
      height: 220, x: rounds, y: {label: "↑ training loss", grid: true, zero: true},
      marks: [Plot.line(rows, {x: "round", y: "loss", stroke: "currentColor", strokeWidth: 1.6}),
              Plot.tip(rows, Plot.pointerX({x: "round", y: "loss", fill: "var(--panel)", title: row => `round ${row.round}\nloss ${row.loss.toFixed(4)}\n${row.count} clients`}))],
    }));
  },
  kinds(holder) {
    const rows = run.by_kind.map(row => ({...row, name: row.kind + (row.seen ? "" : ", unseen")}));
    const names = [...new Set(rows.map(row => row.name))];
    const longest = Math.max(...names.map(name => name.length));
    return Plot.plot(base(holder, {
      height: 60 + 26 * names.length, marginLeft: Math.min(170, 14 + 7 * longest),
      x: {label: "mean accuracy, % →", domain: [0, 100], grid: true}, y: {label: null, domain: names, tickFormat: name => name.slice(0, 24)},
      marks: [
        Plot.dot(rows, {x: row => 100 * row.accuracy, y: "name", r: 5, fill: row => colour(row.label)}),
        Plot.tip(rows, Plot.pointer({x: row => 100 * row.accuracy, y: "name", fill: "var(--panel)",
          title: row => `${row.name}\n${row.label} ${percent(row.accuracy)}\n${row.clients} clients`})),
      ],
    }));
  },
  coverage(holder) {
    const rows = Object.entries(run.confidence).flatMap(([label, found]) =>
      found.by_coverage.map((accuracy, i) => ({label, x: 100 * found.coverages[i], y: 100 * accuracy})));
    return Plot.plot(base(holder, {
      height: 300, x: {label: "images that are answered, the surest first, % →", domain: [0, 100]}, y: {label: "↑ accuracy on them, %", grid: true},
      marks: [Plot.line(rows, {x: "x", y: "y", z: "label", stroke: row => colour(row.label), marker: "dot"}),
              Plot.tip(rows, Plot.pointer({x: "x", y: "y", fill: "var(--panel)", title: row => `${row.label}\n${row.x.toFixed(0)} % answered: ${row.y.toFixed(1)} % right`}))],
    }));
  },
  tasks(holder) {
    const rows = run.tasks.filter(row => row.label === (run.task_labels.includes(state.label) ? state.label : run.task_labels[0]));
    return Plot.plot(base(holder, {
      height: 60 + 34 * Math.max(...rows.map(row => row.after + 1)), marginLeft: 90, padding: .04,
      x: {label: "accuracy on task →", tickFormat: task => `task ${task + 1}`}, y: {label: null, tickFormat: after => `after task ${after + 1}`},
      color: {scheme: "blues", domain: [0, 1]},
      marks: [
        Plot.cell(rows, {x: "task", y: "after", fill: "accuracy"}),
        Plot.text(rows, {x: "task", y: "after", text: row => (100 * row.accuracy).toFixed(1), fill: row => row.accuracy > .55 ? "white" : "black"}),
      ],
    }));
  },
};
function drawAll() {
  document.querySelectorAll("[data-chart]").forEach(holder => {
    const plot = place(holder, drawings[holder.dataset.chart](holder));
    plot.setAttribute("role", "img");
    plot.setAttribute("aria-label", holder.dataset.title || holder.dataset.chart);
  });
  drawClients();
  if (state.chosen !== null) choose(state.chosen);
}

function options(select, values, chosen) {
  select.replaceChildren(...values.map(([value, text]) => new Option(text, value, false, value === chosen)));
}
if (element("clients-chart")) {
  options(element("pick-label"), run.labels.map(label => [label, label]), state.label);
  options(element("pick-reference"), run.labels.map(label => [label, label]), state.reference);
  options(element("pick-view"), Object.entries(views).map(([key, view]) => [key, view.title]), state.view);
  const pick = (id, key) => element(id).addEventListener("change", event => {
    state[key] = event.target.value; keep(); drawClients(); fillTable();
  });
  pick("pick-label", "label"); pick("pick-reference", "reference"); pick("pick-view", "view");
  element("clients-filter").value = state.filter; element("clients-worse").checked = state.worse;
  element("clients-filter").addEventListener("input", event => { state.filter = event.target.value; keep(); fillTable(); });
  element("clients-worse").addEventListener("change", event => { state.worse = event.target.checked; keep(); fillTable(); });
  element("clients-more").addEventListener("click", () => { state.shown += 500; fillTable(); });
  element("client-close").addEventListener("click", () => {
    state.chosen = null; keep(); element("client").hidden = true; history.replaceState(null, "", location.pathname + location.search);
  });
}
document.querySelectorAll(".scripted").forEach(part => { part.hidden = false; });
fillTable();
drawAll();
const asked = /^#client=(-?\d+)$/.exec(location.hash);
if (asked) choose(Number(asked[1]));
let last = document.body.clientWidth, waiting;
addEventListener("resize", () => {
  clearTimeout(waiting);
  waiting = setTimeout(() => { if (document.body.clientWidth !== last) { last = document.body.clientWidth; drawAll(); } }, 150);
});
document.documentElement.dataset.drawn = "yes";
})();
"""
