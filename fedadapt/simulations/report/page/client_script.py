"""A client's own page: its models, its curve, its images, its messages."""

CLIENT = r"""
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
    height: 46 + 30 * bars.length, marginTop: 6, marginLeft: Math.min(170, 22 + 7.2 * longest),
    x: {label: "accuracy on its own test images, % →", domain: [0, 100], grid: true}, y: {label: null, domain: bars.map(b => b.label)},
    marks: [
      Plot.barX(bars, {x: "x", y: "label", fill: bar => colour(bar.label), insetTop: 4, insetBottom: 4}),
      Plot.text(bars, {x: "x", y: "label", text: bar => bar.x.toFixed(1), dx: bars.some(b => b.x > 92) ? -20 : 18,
        fill: bars.some(b => b.x > 92) ? "white" : "currentColor"}),
    ],
  })));
  drawHistory(client);
  showImages(client);
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
  const sum = at => rows.reduce((total, row) => total + row[at], 0);
  element("client-left").textContent = rows.length
    ? `${sum(2).toLocaleString("en")} messages: ${megabytes(sum(3))} MB reached this client, ${megabytes(sum(4))} MB left it. Its images never did.` : "";
  section.scrollIntoView({block: "nearest"});
}
// How many images of which class it has, in its three sets.
function showImages(client) {
  const table = element("client-images"), numbers = run.images_by_class[client.i] || [];
  table.closest(".scroll").hidden = !numbers.length;
  const rows = [];
  for (let i = 0; i < numbers.length; i += 4) rows.push([run.classes[numbers[i]], ...numbers.slice(i + 1, i + 4)]);
  const most = Math.max(1, ...rows.map(row => row[1] + row[2] + row[3]));
  const total = ["all", ...[1, 2, 3].map(at => rows.reduce((sum, row) => sum + row[at], 0))];
  table.tBodies[0].replaceChildren(...[...rows, total].map((row, i) => {
    const line = document.createElement("tr");
    row.forEach((text, at) => {
      const cell = document.createElement("td");
      cell.textContent = text;
      if (at) cell.className = "n";
      if (i === rows.length) cell.classList.add("strong");
      line.append(cell);
    });
    const cell = document.createElement("td");
    cell.className = "bar";
    if (i < rows.length) {
      const bar = document.createElement("i");
      bar.style.width = `${100 * (row[1] + row[2] + row[3]) / most}%`;
      cell.append(bar);
    }
    line.append(cell);
    return line;
  }));
}
function tabulate(table, heads, lines) {
  const row = (texts, tag) => {
    const line = document.createElement("tr");
    line.append(...texts.map(text => Object.assign(document.createElement(tag), {textContent: text, className: "n"})));
    return line;
  };
  table.tHead.replaceChildren(row(heads, "th"));
  table.tBodies[0].replaceChildren(...lines.map(texts => row(texts, "td")));
}
function drawHistory(client) {
  const holder = element("client-history"), rows = [];
  for (const curve of run.history)
    curve.accuracy[client.i].forEach((value, i) => {
      if (value !== null) rows.push({label: curve.label, round: run.history_rounds[i], y: 100 * value / 1000});
    });
  holder.hidden = element("client-rounds").hidden = rows.length < 2;
  if (holder.hidden) return;
  tabulate(element("client-rounds").querySelector("table"), ["round", ...run.history.map(curve => curve.label)],
    run.history_rounds.map((round, i) => [String(round), ...run.history.map(curve => {
      const value = curve.accuracy[client.i][i];
      return value === null ? "–" : percent(value / 1000);
    })]));
  place(holder, Plot.plot(base(holder, {
    height: 220, x: rounds, y: {label: "↑ accuracy, %", grid: true, domain: [0, 100]},
    marks: [
      Plot.line(rows, {x: "round", y: "y", z: "label", stroke: row => colour(row.label), marker: "dot"}),
      Plot.tip(rows, Plot.pointer({x: "round", y: "y", title: row => `round ${row.round}\n${row.label} ${row.y.toFixed(1)} %`, fill: "var(--panel)"})),
    ],
  })));
}
"""
