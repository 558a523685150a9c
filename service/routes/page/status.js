// The page's key, and what is served. No library and no build step; text from outside is only ever set as text, never
// as HTML.
"use strict";

const KEY = "llmops-key";

const $ = (id) => document.getElementById(id);

/** Makes an element with text and attributes. */
function make(tag, text = "", attributes = {}) {
  const element = document.createElement(tag);
  element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

/** A version with its aliases, where it has any. */
const withAliases = (version, aliases) => (aliases.length ? `${version} (${[...aliases].sort().join(", ")})` : version);

// --- The key -------------------------------------------------------------------------------------------------------

const key = () => sessionStorage.getItem(KEY);

/** `fetch` with the key, where there is one. */
function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (key()) headers.authorization = `Bearer ${key()}`;
  return fetch(path, { ...options, headers });
}

/** Posts JSON, with the key. */
function post(path, body, options = {}) {
  return ask(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), ...options });
}

async function problemOf(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the gateway answered ${response.status}`;
  }
}

function needKey(reason) {
  $("key-reason").textContent = key()
    ? `The key was not accepted: ${reason}.`
    : "This gateway answers to keys. One is made with “llmops keys create”.";
  sessionStorage.removeItem(KEY);
  $("forget").hidden = true;
  $("content").hidden = true;
  if ($("key-section").hidden) {
    $("key-section").hidden = false;
    $("key-input").focus();
  }
  showHealth("Key needed", "");
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, $("key-input").value.trim());
  $("key-input").value = "";
  look();
});

$("forget-key").addEventListener("click", () => {
  sessionStorage.removeItem(KEY);
  location.reload();
});

// --- Status --------------------------------------------------------------------------------------------------------

let shownApps = "";
let shownModels = "";

async function look() {
  let response;
  try {
    response = await ask("/status.json", { cache: "no-store" });
  } catch {
    showHealth("The gateway does not answer", "bad");
    return;
  }
  if (response.status === 401) {
    needKey(await problemOf(response));
    return;
  }
  if (!response.ok) {
    showHealth(await problemOf(response), "bad");
    return;
  }
  show(await response.json());
}

function show(status) {
  $("key-section").hidden = true;
  $("content").hidden = false;
  $("forget").hidden = !key();
  $("version").textContent = `llmops ${status.version}`;
  showHealth(status.ready ? "Ready" : `Not ready: ${status.reasons.join("; ")}`, status.ready ? "good" : "bad");
  showTraffic(status.recent, status.problem);
  if (status.links.mlflow) {
    $("mlflow-link").href = status.links.mlflow;
    $("mlflow-place").replaceChildren(make("a", "MLflow", { href: status.links.mlflow }));
  }
  showApps(status.apps, status.tabular, status.recent);
  const described = JSON.stringify(status.apps.map((app) => app.releases.map((r) => [r.release, r.aliases])));
  if (described !== shownApps) {
    shownApps = described;
    offer(status.apps);
  }
  $("play-section").hidden = status.apps.length === 0 && status.tabular.length > 0;
  if (JSON.stringify(status.tabular) !== shownModels) {
    shownModels = JSON.stringify(status.tabular);
    offerModels(status.tabular);
  }
}

function showHealth(text, state) {
  if ($("health").textContent !== text) $("health").textContent = text;
  $("health").className = `health ${state}`;
}

const number = (value, digits = 0) =>
  value === null || value === undefined ? "–" : value.toLocaleString("en", { maximumFractionDigits: digits });

/** Milliseconds as a person reads them: value and unit. */
function time(ms) {
  if (ms === null || ms === undefined) return ["–", ""];
  return ms < 1000 ? [number(ms, ms < 10 ? 1 : 0), "ms"] : [number(ms / 1000, 2), "s"];
}

function span(seconds) {
  return seconds < 90 ? `last ${Math.round(seconds)} seconds` : `last ${Math.round(seconds / 60)} minutes`;
}

function showTraffic(recent, problem) {
  $("traffic-hint").textContent = problem || (recent ? span(recent.seconds) : "no request in the last 5 minutes");
  const errors = recent ? (100 * recent.errors) / recent.requests : null;
  const tiles = [
    ["Requests", number(recent?.requests_per_minute, 1), "a minute"],
    ["Errors", number(errors, 1), recent ? "%" : "", errors > 0],
    ["Median time", ...time(recent?.p50_ms)],
    ["95 % within", ...time(recent?.p95_ms)],
    ["First words", ...time(recent?.first_token_p50_ms)],
    ["Tokens made", number(recent?.tokens_per_second, 1), "a second"],
  ];
  $("tiles").replaceChildren(
    ...tiles.map(([name, value, unit, wrong]) => {
      const tile = make("div", "", wrong ? { class: "wrong" } : {});
      const shown = make("dd", value);
      shown.append(make("span", unit, { class: "unit" }));
      tile.append(make("dt", name), shown);
      return tile;
    }),
  );
}

function policyText(policy) {
  if (!policy || !(policy.canary || policy.shadow)) return "all plain traffic goes to the champion";
  const parts = [];
  if (policy.canary) parts.push(`${number(100 * policy.canary, 2)} % goes to the challenger, by ${policy.sticky}`);
  if (policy.shadow) parts.push(`${number(100 * policy.shadow, 2)} % is answered by the challenger too, unseen`);
  return parts.join("; ");
}

const COLUMNS = [["Release"], ["Serves as"], ["Prompt"], ["Model"], ["Share", 1], ["p50", 1], ["p95", 1], ["Errors", 1]];

function showApps(apps, tabular, recent) {
  if ($("apps").contains(document.activeElement)) return; // drawing it anew would take the focus away
  const open = new Set([...document.querySelectorAll("#apps details[open]")].map((item) => item.dataset.app));
  if (!apps.length && !tabular.length) {
    $("apps").replaceChildren(make("p", "No app has a release yet; “llmops release create” makes one.", { class: "card" }));
    return;
  }
  $("apps").replaceChildren(...apps.map((app) => appCard(app, recent, open.has(app.app))), ...tabular.map(modelCard));
}

/** The champion first, then who may follow it, then the others as they come. */
function rank(release) {
  const place = ["champion", "challenger", "previous"].findIndex((alias) => release.aliases.includes(alias));
  return place < 0 ? 3 : place;
}

function cardOf(name, hint) {
  const card = make("div", "", { class: "card" });
  const head = make("div", "", { class: "app-head" });
  head.append(make("h3", name), make("p", hint, { class: "hint" }));
  card.append(head);
  return card;
}

const aliasTags = (aliases) => [...aliases].sort().map((alias) => make("span", alias, { class: `alias ${alias}` }));

function appCard(app, recent, open) {
  const card = cardOf(app.app, policyText(app.policy));
  const named = app.releases.filter((release) => release.aliases.length || release.recent).sort((a, b) => rank(a) - rank(b));
  const rest = app.releases.filter((release) => !named.includes(release));
  card.append(releaseTable(named, recent, `Releases of ${app.app} in use`));
  if (rest.length) {
    const details = make("details", "", { "data-app": app.app });
    details.open = open;
    details.append(make("summary", `${rest.length} more`), releaseTable(rest, recent, `Other releases of ${app.app}`));
    card.append(details);
  }
  for (const votes of app.votes) {
    const counts = `${votes.a} ${votes.wins_a}, ${votes.b} ${votes.wins_b}, neither ${votes.ties}`;
    card.append(make("p", `Votes: ${counts}`, { class: "hint votes-so-far" }));
  }
  return card;
}

function modelCard({ model, versions }) {
  const card = cardOf(model, "a tabular model");
  const named = versions.filter(({ aliases }) => aliases.length).sort((a, b) => rank(a) - rank(b));
  for (const { version, aliases } of named) {
    const line = make("div", `${version} `);
    line.append(...aliasTags(aliases));
    card.append(line);
  }
  if (versions.length > named.length) card.append(make("p", `${versions.length - named.length} more`, { class: "hint" }));
  return card;
}

function releaseTable(releases, recent, caption) {
  const scroll = make("div", "", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption });
  const table = make("table");
  const head = table.createTHead().insertRow();
  for (const [name, isNumber] of COLUMNS) head.append(make("th", name, { scope: "col", class: isNumber ? "number" : "" }));
  const body = table.createTBody();
  for (const release of releases) {
    const row = body.insertRow();
    const aliases = make("td");
    aliases.append(...aliasTags(release.aliases));
    row.append(make("td", release.release, { class: "name" }), aliases, make("td", release.prompt), make("td", release.model));
    const own = release.recent;
    const shares = own
      ? [`${number((100 * own.requests) / recent.requests)} %`, time(own.p50_ms).join(" "), time(own.p95_ms).join(" "), number(own.errors)]
      : ["–", "–", "–", "–"];
    row.append(...shares.map((text) => make("td", text, { class: "number" })));
  }
  scroll.append(table);
  return scroll;
}
