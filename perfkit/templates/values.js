(function () {
  document.querySelectorAll("[data-values]").forEach(function (box) {
    var texts = JSON.parse(box.getAttribute("data-values")), at = -1;
    var dot = document.createElement("span"), note = document.createElement("span");
    dot.className = "pk-dot"; note.className = "pk-value"; dot.hidden = note.hidden = true;
    note.setAttribute("role", "status");
    box.append(dot, note);
    function drawing() {
      return Array.from(box.querySelectorAll("svg")).find(function (one) { return one.getClientRects().length; });
    }
    function places(svg) {
      return svg.getAttribute("data-places").split(",").map(function (one) { return one.split(" ").map(Number); });
    }
    function show(i) {
      var svg = drawing(), outer = box.getBoundingClientRect(), inner = svg.getBoundingClientRect();
      var place = places(svg)[at = i], x = inner.left - outer.left + box.scrollLeft + place[0] / 1000 * inner.width;
      var y = inner.top - outer.top + place[1] / 1000 * inner.height;
      dot.hidden = note.hidden = false;
      note.textContent = texts[i];
      dot.style.left = x + "px"; dot.style.top = y + "px";
      note.style.left = Math.max(0, Math.min(x + 10, outer.width - note.offsetWidth - 4)) + "px";
      note.style.top = Math.max(0, y - note.offsetHeight - 10) + "px";
    }
    function hide() { dot.hidden = note.hidden = true; }
    function nearest(event) {
      var svg = drawing(), inner = svg.getBoundingClientRect(), best = -1, least = Infinity;
      places(svg).forEach(function (place, i) {
        var x = place[0] / 1000 * inner.width + inner.left - event.clientX;
        var y = place[1] / 1000 * inner.height + inner.top - event.clientY, far = x * x + y * y / 4;
        if (far < least) { least = far; best = i; }
      });
      if (best >= 0) { show(best); }
    }
    box.addEventListener("pointermove", nearest);
    box.addEventListener("pointerdown", nearest);  // a finger that taps does not move, and leaves when it lifts
    box.addEventListener("pointerleave", function (event) { if (event.pointerType === "mouse") { hide(); } });
    box.addEventListener("blur", hide);
    box.addEventListener("keydown", function (event) {
      var step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -1e9, End: 1e9 }[event.key];
      if (event.key === "Escape") { hide(); }
      if (!step) { return; }
      event.preventDefault();
      show(Math.max(0, Math.min(texts.length - 1, at < 0 && step > 0 ? 0 : at + step)));
    });
  });
})();
