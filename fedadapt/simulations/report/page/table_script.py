"""The table of all clients: it sorts at its heads and is searched."""

TABLE = r"""
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

"""
