// What versions of a tabular model said of a row, and of rows in which one column varies: cards, lines, a table.
"use strict";

const MOST_CLASSES = 5; // that are drawn, the likeliest ones
const SVG = "http://www.w3.org/2000/svg";

/** A number with four digits that count; any other value as it is called. */
function predictionText(value) {
  if (typeof value !== "number") return String(value);
  const size = Math.abs(value);
  if (size > 0 && size < 1e-4) return value.toExponential(2);
  return value.toLocaleString("en", size < 1000 ? { maximumSignificantDigits: 4 } : { maximumFractionDigits: 0 });
}

const shareText = (share) => `${number(100 * share, 1)} %`;

/** One version's prediction of the form's row, beside that of the row it began with. isFirst: the two are the same. */
function saidCard({ title, problem, predictions, probabilities }, output, isFirst) {
  const card = make("article", "", { class: "answer" });
  card.append(make("h3", title));
  if (problem) {
    card.append(make("p", problem, { class: "text failed" }));
    return card;
  }
  const [now, first] = predictions;
  const text = probabilities ? String : predictionText;
  const value = make("p", text(now), { class: "said" });
  value.append(make("span", output, { class: "unit" }));
  card.append(value);
  for (const [name, share] of Object.entries(probabilities?.[0] ?? {})) {
    const line = make("div", "", { class: "share" });
    const meter = make("meter", "", { value: share, "aria-label": `probability of ${name}` });
    line.append(make("span", name), meter, make("span", shareText(share), { class: "number" }));
    card.append(line);
  }
  const factor = !probabilities && first > 0 && now > 0 ? `; this is × ${number(now / first, 2)}` : "";
  card.append(make("p", isFirst ? "the first row, unchanged" : `the first row: ${text(first)}${factor}`, { class: "facts" }));
  return card;
}

/** By line of a picture, which is a column of the table: a version's predictions, or the probabilities of one class. */
function linesOf(replies) {
  const shares = replies[0].probabilities?.[0];
  const classes = shares && Object.keys(shares).sort((a, b) => shares[b] - shares[a]).slice(0, MOST_CLASSES).sort();
  return replies.flatMap(({ title, predictions, probabilities }, version) => {
    if (!classes || !probabilities) return [{ name: title, look: `look-${version}`, values: predictions.slice(2) }];
    return classes.map((name, colour) => ({
      name: `${title}: ${name}`,
      look: `look-${colour}${version ? " second" : ""}`,
      values: probabilities.slice(2).map((each) => each[name] ?? 0),
    }));
  });
}

/** Shows what was said where one column varies. values: its, in turn. now: the form's. isNumeric: it can be drawn. */
function showVaried(replies, { varied, values, now, isNumeric, output }) {
  $("what-varied").hidden = replies.length === 0 || values.length === 0;
  if ($("what-varied").hidden) return;
  const lines = linesOf(replies);
  const areShares = Boolean(replies[0].probabilities);
  const text = areShares ? shareText : predictionText;
  const isDrawn = isNumeric && lines.every((line) => typeof line.values[0] === "number");
  const what = `${areShares ? `probability of each ${output}` : output}, where ${varied} alone varies`;
  $("what-varied-title").textContent = what;
  $("what-legend").hidden = !isDrawn;
  $("what-legend").replaceChildren(...lines.map(legendItem));
  $("what-chart").replaceChildren(...(isDrawn ? [chart(lines, { values, now, what, text, top: areShares ? 1 : null })] : []));
  const table = make("table");
  const head = table.createTHead().insertRow();
  head.append(make("th", varied, { scope: "col" }), ...lines.map(({ name }) => make("th", name, { scope: "col", class: "number" })));
  const body = table.createTBody();
  values.forEach((value, place) => {
    const said = lines.map((line) => make("td", text(line.values[place]), { class: "number" }));
    body.insertRow().append(make("th", valueText(value), { scope: "row" }), ...said);
  });
  $("what-table").replaceChildren(table);
}

function shape(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function legendItem({ name, look }) {
  const item = make("li");
  const line = shape("path", { class: `line ${look}`, d: "M0 2H28" });
  item.append(shape("svg", { class: "key", viewBox: "0 0 28 4", "aria-hidden": "true" }, line), name);
  return item;
}

/** As wide as its place, so that its letters are as large as the page's, and from 0, so that heights can be compared.
 * top: the end of the scale; null: what is just above all values. */
function chart(lines, { values, now, what, text, top }) {
  const [width, height, left, right, above, below] = [Math.max(260, $("what-chart").clientWidth), 220, 64, 12, 10, 28];
  const said = lines.flatMap((line) => line.values);
  const low = Math.min(0, ...said);
  const high = top ?? (Math.max(0, ...said.map(roundedUp)) || (low < 0 ? 0 : 1));
  const [from, to] = [values[0], values.at(-1)];
  const x = (value) => left + ((value - from) / (to - from || 1)) * (width - left - right);
  const y = (value) => height - below - ((value - low) / (high - low)) * (height - above - below);
  const words = (place, label, anchor) => shape("text", { ...place, "text-anchor": anchor }, label);
  const parts = [low, (low + high) / 2, high].flatMap((value) => [
    shape("path", { class: "grid", d: `M${left} ${y(value)}H${width - right}` }),
    words({ x: left - 8, y: y(value) + 4 }, text(value), "end"),
  ]);
  const middle = values[(values.length - 1) >> 1];
  for (const [value, anchor] of new Map([[from, "start"], [middle, "middle"], [to, "end"]])) {
    parts.push(words({ x: x(value), y: height - 8 }, valueText(value), anchor));
  }
  if (now !== null && now >= from && now <= to) parts.push(shape("path", { class: "now", d: `M${x(now)} ${above}V${height - below}` }));
  for (const { look, values: of } of lines) {
    const points = of.map((value, place) => `${x(values[place])} ${y(value)}`);
    parts.push(shape("path", { class: `line ${look}`, d: `M${points.join("L")}` }));
  }
  const label = `${what}; the table has the same as numbers`;
  return shape("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label }, ...parts);
}

/** To a fifth of its power of ten: 0.0554 to 0.056. */
function roundedUp(value) {
  if (value <= 0) return value;
  const unit = 10 ** Math.floor(Math.log10(value)) / 5;
  return Math.ceil(value / unit) * unit;
}
