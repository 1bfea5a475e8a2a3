"""The charts of a study; each is a function of where it is drawn, and of which rows are shown."""

STUDY_CHARTS = r"""
const entries = run.entries.map((entry, i) => ({
  ...entry, i, mean: entry.by_seed.length ? entry.by_seed.reduce((a, b) => a + b, 0) / entry.by_seed.length : null,
}));
const state = {shown: new Set(entries.map(entry => entry.i)), population: 0, axis: run.axes[0], matrix: null};
const colour = entry => `var(--c${entry.i})`;
const shown = () => entries.filter(entry => state.shown.has(entry.i));
const here = () => shown().filter(entry => entry.population === state.population);
const lowest = values => Math.min(...values), highest = values => Math.max(...values);
const mean = values => values.reduce((a, b) => a + b, 0) / values.length;
const nothing = () => {
  const words = document.createElement("p");
  words.className = "soft";
  words.textContent = "No row that is shown has this.";
  return words;
};

// Every mark of a row is in a group that names the row: what is looked at stays, the rest fades.
const mark = entry => ({ariaDescription: `row ${entry.i}`});
function look(entry) {
  document.querySelectorAll("[data-chart] g[aria-description]").forEach(group => {
    group.style.opacity = !entry || group.getAttribute("aria-description") === `row ${entry.i}` ? "" : ".12";
  });
  document.querySelectorAll("#entries tbody tr").forEach(row => {
    row.classList.toggle("looked", !!entry && Number(row.dataset.entry) === entry.i);
  });
}

// Rows one below the other, with their names at the left, cut where a telephone has no room.
function rowNames(holder, list) {
  const longest = Math.max(...list.map(entry => entry.title.length));
  const marginLeft = Math.min(width(holder) < 600 ? 168 : 280, 14 + 6.6 * longest);
  const room = Math.floor((marginLeft - 12) / 6.4);
  // Of a long name the middle goes: the method is at its beginning, the client model at its end.
  const half = Math.floor((room - 1) / 2);
  const short = text => text.length > room ? text.slice(0, half) + "…" + text.slice(-half) : text;
  return {
    marginTop: 10, marginLeft, marginRight: 24,
    y: {label: null, domain: [-.6, list.length - .4], reverse: true, ticks: list.map((_, i) => i), tickSize: 0,
        tickFormat: i => Number.isInteger(i) && list[i] ? short(list[i].title) : ""},
  };
}
const tip = (rows, options) => Plot.tip(rows, Plot.pointer({fill: "var(--panel)", maxRadius: 50, ...options}));

// Means over seeds at each step, with the lowest and the highest seed.
function banded(entry, curves, key) {
  const at = new Map();
  for (const curve of curves) curve.steps.forEach((step, i) => {
    if (!at.has(step)) at.set(step, []);
    at.get(step).push(100 * curve.values[i]);
  });
  return [...at].sort((a, b) => a[0] - b[0]).map(([step, values]) => ({
    entry, key, x: step, y: mean(values), low: lowest(values), high: highest(values), seeds: values.length,
  }));
}
const bandsAndLines = (groups, many) => groups.flatMap(rows => [
  Plot.areaY(rows, {x: "x", y1: "low", y2: "high", fill: colour(rows[0].entry), fillOpacity: groups.length > 6 ? .07 : .13, ...mark(rows[0].entry)}),
  Plot.line(rows, {x: "x", y: "y", stroke: colour(rows[0].entry), strokeWidth: 2, ...mark(rows[0].entry)}),
  many ? null : Plot.dot(rows, {x: "x", y: "y", symbol: rows[0].entry.sign, fill: colour(rows[0].entry), r: 3.5, ...mark(rows[0].entry)}),
]).filter(Boolean);

const drawings = {
  curves(holder) {
    const groups = shown().filter(entry => entry.curves.length).map(entry => banded(entry, entry.curves)).filter(rows => rows.length);
    if (!groups.length) return nothing();
    const rows = groups.flat(), steps = new Set(rows.map(row => row.x));
    return Plot.plot(base(holder, {
      height: 380, x: {...rounds, label: `${run.step} →`}, y: {label: "↑ accuracy, %", grid: true, zero: false, nice: true},
      marks: [...bandsAndLines(groups, steps.size > 40),
        tip(rows, {x: "x", y: "y", title: row => `${row.entry.title}\n${run.step} ${row.x}\nmean ${row.y.toFixed(1)} %`
          + (row.seeds > 1 ? `\nseeds ${row.low.toFixed(1)} to ${row.high.toFixed(1)} %` : "")})],
    }));
  },
  axis(holder) {
    const axis = state.axis, groups = new Map();
    for (const entry of shown()) {
      if (!(axis in entry.point) || !entry.by_seed.length) continue;
      const others = Object.entries(entry.point).filter(([key]) => key !== axis).map(([key, value]) => `${key} ${value}`);
      const key = [entry.series, ...others, entry.label].filter(Boolean).join(" · ");
      if (!groups.has(key)) groups.set(key, []);
      const values = entry.by_seed.map(value => 100 * value);
      groups.get(key).push({entry, key, x: entry.point[axis], y: mean(values), low: lowest(values), high: highest(values), seeds: values.length});
    }
    const lists = [...groups.values()];
    if (!lists.length) return nothing();
    const values = [...new Set(lists.flat().map(row => row.x))], numeric = values.every(x => typeof x === "number");
    const log = numeric && lowest(values) > 0 && highest(values) / lowest(values) > 8;
    if (numeric) lists.forEach(rows => rows.sort((a, b) => a.x - b.x));
    return Plot.plot(base(holder, {
      height: 380, marginRight: 24,
      x: numeric ? {type: log ? "log" : "linear", label: `${axis} →`, ticks: values, tickFormat: x => String(x)}
                 : {type: "point", domain: values, label: `${axis} →`, padding: .5},
      y: {label: "↑ accuracy, %", grid: true, nice: true},
      marks: [...bandsAndLines(lists, false),
        tip(lists.flat(), {x: "x", y: "y", title: row => `${row.key}\n${axis} ${row.x}\nmean ${row.y.toFixed(1)} %`
          + (row.seeds > 1 ? `\nseeds ${row.low.toFixed(1)} to ${row.high.toFixed(1)} %` : "")})],
    }));
  },
  published(holder) {
    const list = shown().filter(entry => entry.published !== null);
    if (!list.length) return nothing();
    const rows = list.map((entry, y) => ({entry, y, x: 100 * entry.mean, said: 100 * entry.published,
      low: 100 * lowest(entry.by_seed), high: 100 * highest(entry.by_seed)}));
    return Plot.plot(base(holder, {
      ...rowNames(holder, list), height: 60 + 26 * list.length, x: {label: "accuracy, % →", grid: true, nice: true},
      marks: rows.flatMap(row => [
        Plot.ruleY([row], {y: "y", x1: "low", x2: "high", stroke: colour(row.entry), strokeWidth: 2, ...mark(row.entry)}),
        Plot.dot([row], {y: "y", x: "x", r: 5, symbol: row.entry.sign, fill: colour(row.entry), ...mark(row.entry)}),
        Plot.dot([row], {y: "y", x: "said", r: 5.5, symbol: row.entry.sign, stroke: colour(row.entry), strokeWidth: 2, ...mark(row.entry)}),
      ]).concat([tip(rows, {y: "y", x: "x", title: row => `${row.entry.title}\nmeasured ${row.x.toFixed(2)} %\npublished ${row.said.toFixed(2)} %`})]),
    }));
  },
  matrix(holder) {
    const entry = entries[state.matrix];
    if (!entry) return nothing();
    const cells = entry.matrix.flatMap((row, after) => row.map((accuracy, task) => ({after, task, accuracy})))
      .filter(cell => cell.accuracy !== null);
    const fits = width(holder) / entry.matrix.length > 62;
    return Plot.plot(base(holder, {
      height: 60 + 34 * entry.matrix.length, marginLeft: 84, padding: .04,
      x: {label: "accuracy on task →", tickFormat: task => String(task + 1)}, y: {label: null, tickFormat: after => `after task ${after + 1}`},
      color: {scheme: "blues", domain: [0, 1]},
      marks: [
        Plot.cell(cells, {x: "task", y: "after", fill: "accuracy"}),
        Plot.text(cells, {x: "task", y: "after", text: cell => (100 * cell.accuracy).toFixed(fits ? 1 : 0), fill: cell => cell.accuracy > .55 ? "white" : "black"}),
      ],
    }));
  },
  ranks(holder) {
    const found = run.ranks[state.population];
    const note = element("ranks-note");
    if (!found) { note.textContent = "These rows are not of the same clients, or there is one row only."; return nothing(); }
    const list = found.methods.map(i => entries[i]);
    note.textContent = `${found.num_clients} clients, ${list.length} rows; critical difference ${found.difference.toFixed(2)}; `
      + `Friedman's test that all are alike: p ${found.p < .0001 ? "below 0.0001" : "= " + found.p.toFixed(4)}`;
    const rows = list.map((entry, y) => ({entry, y, x: found.mean[y]}));
    const least = Math.min(1, ...found.mean), most = Math.max(list.length, ...found.mean), lane = (most - least) / (width(holder) < 600 ? 18 : 45);
    const every = Math.ceil(list.length / ((width(holder) - 170) / 30));
    const bars = found.alike.map(([first, last], i) => ({first: first - .25, last: last + .25, x: most + lane * (i + 1.5), y: (first + last) / 2,
      words: list.slice(first, last + 1).map(entry => entry.title).join("\n")}));
    return Plot.plot(base(holder, {
      ...rowNames(holder, list), height: 74 + 24 * list.length, x: {label: "mean rank →", grid: true, domain: [least, most + lane * (bars.length + 2)],
        ticks: Array.from({length: list.length}, (_, i) => i + 1).filter(i => (i - 1) % every === 0), tickFormat: String},
      marks: [
        ...rows.flatMap(row => [
          Plot.ruleY([row], {y: "y", x1: least, x2: "x", stroke: "currentColor", strokeOpacity: .15, ...mark(row.entry)}),
          Plot.dot([row], {y: "y", x: "x", r: 5, symbol: row.entry.sign, fill: colour(row.entry), ...mark(row.entry)}),
        ]),
        Plot.ruleX(bars, {x: "x", y1: "first", y2: "last", stroke: "currentColor", strokeWidth: 4}),
        Plot.ruleY([{x1: least, x2: least + found.difference}], {x1: "x1", x2: "x2", y: -.45, stroke: "currentColor", strokeWidth: 2}),
        Plot.text([0], {x: least + found.difference, y: -.45, text: ["critical difference"], textAnchor: "start", dx: 6, fill: "currentColor"}),
        tip(rows, {x: "x", y: "y", title: row => `${row.entry.title}\nmean rank ${row.x.toFixed(2)}`}),
        tip(bars, {x: "x", y: "y", maxRadius: 14, title: row => `do not differ:\n${row.words}`}),
      ],
    }));
  },
  bytes: holder => cost(holder, "megabytes", "MB sent and received →", "MB"),
  seconds: holder => cost(holder, "seconds", "CPU seconds on clients →", "s"),
  gains(holder) {
    const list = here().filter(entry => entry.gain.length);
    if (!list.length) return nothing();
    const numbers = run.clients[state.population];
    const of = list.map((entry, y) => entry.gain.map((gain, i) => ({entry, y, client: numbers[i], i, x: gain === null ? null : 100 * gain / run.scale}))
      .filter(row => row.x !== null));
    const opacity = Math.max(.12, Math.min(.7, 40 / numbers.length));
    const marks = of.filter(rows => rows.length).flatMap(rows => [
      Plot.ruleX(rows, {x: "x", y1: row => row.y - .26, y2: row => row.y + .26, strokeWidth: 2, strokeOpacity: opacity,
        stroke: row => row.x < -1e-4 ? "var(--worse)" : colour(row.entry), ...mark(rows[0].entry)}),
      Plot.dot([{x: mean(rows.map(row => row.x)), y: rows[0].y}], {x: "x", y: "y", r: 6, symbol: rows[0].entry.sign, fill: colour(rows[0].entry),
        stroke: "var(--page)", strokeWidth: 1.5, ...mark(rows[0].entry)}),
    ]);
    const chosen = of.flat().filter(row => row.client === state.client);
    return Plot.plot(base(holder, {
      ...rowNames(holder, list), height: 60 + 34 * list.length, x: {label: `gain over ${run.reference}, points →`, grid: true},
      marks: [Plot.ruleX([0], {stroke: "currentColor"}), ...marks,
        Plot.line(chosen, {x: "x", y: "y", stroke: "currentColor", strokeWidth: 1}),
        Plot.dot(chosen, {x: "x", y: "y", r: 7, stroke: "currentColor", strokeWidth: 2, className: "ring"}),
        tip(of.flat(), {x: "x", y: "y", title: row => `client ${row.client}\n${row.entry.title}\naccuracy ${percent(row.entry.accuracy[row.i] / run.scale)}\ngain ${points(row.x / 100)} points`})],
    }));
  },
};
function cost(holder, key, label, unit) {
  const rows = shown().filter(entry => entry[key] !== null && entry.by_seed.length).map(entry => ({
    entry, x: entry[key], y: 100 * entry.mean, low: 100 * lowest(entry.by_seed), high: 100 * highest(entry.by_seed),
  }));
  if (!rows.length) return nothing();
  return Plot.plot(base(holder, {
    height: 300, marginRight: 20, x: {label, grid: true, zero: true, nice: true, ticks: width(holder) < 400 ? 4 : 6}, y: {label: "↑ accuracy, %", grid: true, nice: true},
    marks: rows.flatMap(row => [
      Plot.ruleX([row], {x: "x", y1: "low", y2: "high", stroke: colour(row.entry), strokeWidth: 2, ...mark(row.entry)}),
      Plot.dot([row], {x: "x", y: "y", r: 6, symbol: row.entry.sign, fill: colour(row.entry), ...mark(row.entry)}),
    ]).concat([tip(rows, {x: "x", y: "y", title: row => `${row.entry.title}\naccuracy ${row.y.toFixed(1)} %\n${row.x.toLocaleString("en", {maximumFractionDigits: 1})} ${unit}`})]),
  }));
}
"""
