"""What the scripts of all pages share; Python, since Flower ships apps without ``.js`` files."""

SHARED = r"""
const element = id => document.getElementById(id);
const percent = x => x === null || x === undefined ? "–" : (100 * x).toFixed(1) + " %";
const points = x => x === null ? "–" : ((x >= 0 ? "+" : "−") + Math.abs(100 * x).toFixed(1));
const megabytes = x => (x / 1e6).toLocaleString("en", {maximumFractionDigits: x < 1e6 ? 4 : 1});
const width = holder => Math.max(300, Math.min(1040, holder.clientWidth || 720));
const base = (holder, more) => ({
  width: width(holder), marginTop: 28, marginLeft: 44, marginBottom: 38, style: {fontSize: "12px", background: "none", overflow: "visible"}, ...more,
});
const rounds = {label: "round →", tickFormat: round => Number.isInteger(round) ? String(round) : ""};
function place(holder, plot) { holder.replaceChildren(plot); return plot; }

function options(select, values, chosen) {
  select.replaceChildren(...values.map(([value, text]) => new Option(text, value, false, value === chosen)));
}
function redrawnWhenResized(draw) {
  let last = document.body.clientWidth, waiting;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { if (document.body.clientWidth !== last) { last = document.body.clientWidth; draw(); } }, 150);
  });
}
"""
