// Keeps the live part of a page up to date, and asks before an action that is hard to undo.
(function () {
  "use strict";
  let source = null;
  let waiting = null;

  function live() {
    return document.querySelector("#live[data-stream]");
  }

  // Nothing moves under the hands of the user: an open value, a focused button or a selected text stays.
  function isInUse(element) {
    const selection = document.getSelection();
    return (
      element.querySelector("details[open]") !== null ||
      element.contains(document.activeElement) ||
      (selection !== null && !selection.isCollapsed && element.contains(selection.anchorNode))
    );
  }

  function update() {
    const element = live();
    if (waiting !== null && element !== null && !isInUse(element)) {
      htmx.swap(element, waiting, { swapStyle: "innerHTML" });
      waiting = null;
    }
  }

  function close() {
    waiting = null;
    if (source !== null) {
      source.close();
      source = null;
    }
  }

  function open() {
    close();
    if (document.hidden || live() === null) {
      return;
    }
    const lost = document.getElementById("lost");
    source = new EventSource(window.location.href);
    source.addEventListener("live", function (event) {
      lost.hidden = true;
      waiting = event.data;
      update();
    });
    source.addEventListener("lost", function () {
      lost.hidden = false;
    });
  }

  document.addEventListener("submit", function (event) {
    const question = event.target.dataset.confirm;
    if (question && !window.confirm(question)) {
      event.preventDefault();
    }
  });
  document.addEventListener("visibilitychange", open);
  document.addEventListener("htmx:pushedIntoHistory", open);
  window.addEventListener("pagehide", close);
  window.setInterval(update, 1000);
  open();
})();
