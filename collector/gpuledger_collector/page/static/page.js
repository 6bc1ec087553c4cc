// SPDX-License-Identifier: Apache-2.0
// Refreshes the page in place: the same address is asked again, and what is in <main> is replaced. Nothing is computed
// here, and without this file the page reads the same. It waits while the page is hidden, a form has the focus, text is
// selected, or it was told to.
"use strict";
(() => {
  const status = document.getElementById("refresh");
  if (status === null) return;
  const every = Number(status.dataset.seconds) * 1000;
  const text = document.createElement("span");
  const button = document.createElement("button");
  button.type = "button";
  status.append(text, " ", button);
  status.hidden = false;
  let paused = false;
  let failedSince = null;

  const time = () => new Date().toISOString().slice(11, 16) + " UTC";
  const say = () => {
    text.textContent = paused ? "Refreshing is paused." : failedSince !== null
      ? `The collector has not answered since ${failedSince}.` : `Refreshes every ${every / 1000} s.`;
    button.textContent = paused ? "Go on" : "Pause";
    status.classList.toggle("failed", failedSince !== null);
  };
  const isBusy = () => {
    const active = document.activeElement;
    const selection = document.getSelection();
    return document.hidden || paused || (selection !== null && !selection.isCollapsed) ||
      (active !== null && active.closest("form") !== null);
  };
  const pathOf = (element) => {
    const all = Array.from(document.querySelectorAll("main a, main summary"));
    return all.indexOf(element);
  };
  const refresh = async () => {
    if (isBusy()) return;
    try {
      const answer = await fetch(location.href, { cache: "no-cache", credentials: "same-origin" });
      if (!answer.ok) throw new Error(String(answer.status));
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      const before = document.querySelector("main");
      const after = fresh.querySelector("main");
      if (isBusy() || before === null || after === null) return;
      const focused = pathOf(document.activeElement);
      const open = Array.from(before.querySelectorAll("details"), (one) => one.open);
      const node = document.importNode(after, true);
      node.querySelectorAll("details").forEach((one, place) => { one.open = open[place] === true; });
      before.replaceWith(node);
      document.title = fresh.title;
      if (focused >= 0) {
        const all = document.querySelectorAll("main a, main summary");
        if (focused < all.length) all[focused].focus({ preventScroll: true });
      }
      failedSince = null;
    } catch {
      if (failedSince === null) failedSince = time();
    }
    say();
  };
  button.addEventListener("click", () => { paused = !paused; say(); if (!paused) refresh(); });
  document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
  setInterval(refresh, every);
  say();
})();
