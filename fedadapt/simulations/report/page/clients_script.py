"""The chart of clients: three views of one model beside another, with hover and pointing."""

CLIENTS = r"""
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
  run.labels.includes("local") && ![state.label, state.reference].includes("local") && `alone ${percent(client.accuracy.local)}`,
].filter(Boolean).join("\n");

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
      const hasLocal = run.labels.includes("local") && state.label !== "local" && state.reference !== "local";
      const ink = row => isWorse(gainOf(row.client)) ? "var(--worse)" : colour(state.label);
      return Plot.plot(base(holder, {
        height: 380, x: {insetLeft: 8, insetRight: 8, label: `clients, sorted by ${state.reference} →`, ticks: []},
        y: {label: "↑ accuracy, %", grid: true, domain: [0, 100]},
        marks: [
          same || many ? null : Plot.ruleX(rows, {x: "x", y1: "before", y2: "y", stroke: ink, strokeOpacity: .5}),
          many ? Plot.line(rows, {x: "x", y: "before", stroke: colour(state.reference), strokeWidth: 2})
               : Plot.dot(rows, {x: "x", y: "before", r: 3, fill: colour(state.reference)}),
          same ? null : Plot.dot(rows, {x: "x", y: "y", r: many ? 2 : 4, stroke: ink,
            fill: row => row.client.seen ? ink(row) : "var(--page)", fillOpacity: many ? .5 : 1, strokeOpacity: many ? .5 : 1}),
          // What a client gets alone is there whatever is chosen, as a short line across.
          hasLocal && Plot.ruleY(rows.filter(row => row.client.accuracy.local !== null), {x1: row => row.x - .4, x2: row => row.x + .4, y: row => 100 * row.client.accuracy.local,
            stroke: colour("local"), strokeWidth: 2, strokeOpacity: many ? .4 : 1, className: "local"}),
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
        height: 50 + 46 * run.labels.length, marginTop: 10, marginLeft: Math.min(170, 22 + 7.2 * longest),
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

"""
