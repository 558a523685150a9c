// Starts the page, when status.js, playground.js and whatif.js are there.
"use strict";

const POLL_MS = 5000;

$("base-url").textContent = `${location.origin}/v1`;
look();
setInterval(() => {
  if (!document.hidden && $("key-section").hidden) look();
}, POLL_MS);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && $("key-section").hidden) look();
});
