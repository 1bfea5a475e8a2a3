"""What a reader does with the page of a study: sort, find, choose rows, point, look at a client."""

STUDY = r"""
function drawAll() {
  document.querySelectorAll("[data-chart]").forEach(holder => {
    const plot = place(holder, drawings[holder.dataset.chart](holder));
    if (plot.tagName.toLowerCase() === "p") return;
    plot.setAttribute("role", "img");
    plot.setAttribute("aria-label", `${holder.dataset.title}; the numbers are in a table of this page`);
    plot.addEventListener("input", () => look(plot.value && plot.value.entry));
    plot.addEventListener("pointerleave", () => look(null));
    if (holder.dataset.chart === "gains") plot.addEventListener("click", () => plot.value && choose(plot.value.client));
  });
  element("shown").textContent = state.shown.size === entries.length ? "" : `${state.shown.size} of ${entries.length} rows are in the charts`;
}

// The table: its rows are there already, they are put in order, hidden and found.
const table = element("entries"), heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
function sort(at, down) {
  const value = row => row.cells[at].dataset.value;
  const rows = [...body.rows], filled = rows.map(value).filter(x => x !== "");
  const numeric = filled.length > 0 && filled.every(x => !Number.isNaN(Number(x)));
  rows.sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === "" || y === "") return (x === "") - (y === "") || a.dataset.entry - b.dataset.entry;
    const order = numeric ? x - y : x.localeCompare(y);
    return (down ? -order : order) || a.dataset.entry - b.dataset.entry;
  });
  body.replaceChildren(...rows);
  heads.forEach((head, i) => i === at ? head.setAttribute("aria-sort", down ? "descending" : "ascending") : head.removeAttribute("aria-sort"));
}
heads.forEach((head, at) => {
  if (!body.rows.length || body.rows[0].cells[at].dataset.value === undefined) return;
  const button = document.createElement("button");
  button.textContent = head.textContent;
  button.addEventListener("click", () => sort(at, head.getAttribute("aria-sort") === "ascending"));
  head.replaceChildren(button);
});
const boxes = [...body.querySelectorAll("input[type=checkbox]")];
const entryOf = node => entries[Number(node.closest("tr").dataset.entry)];
function show() {
  state.shown = new Set(boxes.filter(box => box.checked).map(box => entryOf(box).i));
  drawAll();
}
const MANY = 24;  // rows that can be told apart in a chart
boxes.forEach(box => { box.checked = entryOf(box).i < MANY; box.addEventListener("change", show); });
element("all").addEventListener("click", () => { boxes.forEach(box => { box.checked = true; }); show(); });
element("none").addEventListener("click", () => { boxes.forEach(box => { box.checked = false; }); show(); });
[...body.rows].forEach(row => {
  row.addEventListener("mouseenter", () => look(entryOf(row)));
  row.addEventListener("mouseleave", () => look(null));
});
function find() {
  const words = element("find").value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const row of body.rows) {
    const title = entryOf(row).title.toLowerCase();
    row.hidden = !words.every(word => title.includes(word));
    count += !row.hidden;
  }
  element("count").textContent = count === entries.length ? `${count} rows` : `${count} of ${entries.length} rows`;
}
element("find").addEventListener("input", find);

const pickers = [...document.querySelectorAll("select.population")];
pickers.forEach(select => {
  options(select, run.populations.map((name, i) => [String(i), name]), "0");
  select.addEventListener("change", () => {
    state.population = Number(select.value);
    pickers.forEach(other => { other.value = select.value; });
    choose(null);
  });
});
if (element("axis")) {
  options(element("axis"), run.axes.map(axis => [axis, axis]), state.axis);
  element("axis").addEventListener("change", event => { state.axis = event.target.value; drawAll(); });
}
if (element("matrix-of")) {
  const having = entries.filter(entry => entry.matrix.length);
  state.matrix = having[0].i;
  options(element("matrix-of"), having.map(entry => [String(entry.i), entry.title]), String(state.matrix));
  element("matrix-of").addEventListener("change", event => { state.matrix = Number(event.target.value); drawAll(); });
}

// One client with every row of its population.
function choose(client) {
  const section = element("client");
  state.client = client;
  drawAll();
  if (!section) return;
  section.hidden = client === null;
  if (client === null) return;
  const i = run.clients[state.population].indexOf(client);
  element("client-title").textContent = `Client ${client}`;
  const known = entries.filter(entry => entry.population === state.population && entry.accuracy.length && entry.accuracy[i] !== null);
  section.querySelector("tbody").replaceChildren(...known.map(entry => {
    const row = document.createElement("tr"), gain = entry.gain.length ? entry.gain[i] : null;
    [[entry.title], [percent(entry.accuracy[i] / run.scale), "n"], [points(gain === null ? null : gain / run.scale), gain < 0 ? "n worse" : "n"]].forEach(([text, kind]) => {
      const cell = document.createElement("td");
      cell.textContent = text;
      if (kind) cell.className = kind;
      row.append(cell);
    });
    const pages = document.createElement("td");
    entry.links.forEach(link => {
      const anchor = document.createElement("a");
      anchor.href = `${link.address}#client=${client}`;
      anchor.textContent = link.text;
      pages.append(anchor, " ");
    });
    row.append(pages);
    return row;
  }));
}
if (element("client-close")) element("client-close").addEventListener("click", () => choose(null));

document.querySelectorAll(".scripted").forEach(part => { part.hidden = false; });
find();
show();
redrawnWhenResized(drawAll);
"""
