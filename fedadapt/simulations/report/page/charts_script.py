"""The charts of a run as a whole, and the part of the script that sets everything going."""

CHARTS = r"""
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
      height: 50 + 26 * names.length, marginTop: 10, marginLeft: Math.min(190, 22 + 7.6 * longest),
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
redrawnWhenResized(drawAll);
"""
