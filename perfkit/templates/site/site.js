(function () {
  var form = document.querySelector(".ps-find");
  if (!form) { return; }
  var table = document.getElementById(form.dataset.table), body = table.tBodies[0];
  var rows = Array.from(body.rows), heads = Array.from(table.tHead.rows[0].cells);
  var count = form.querySelector(".ps-count"), none = document.querySelector(".ps-none");
  var PAGE = 100, most = PAGE, more = document.createElement("button");
  more.type = "button"; more.className = "ps-more";
  table.parentNode.insertAdjacentElement("afterend", more);

  function fits(row) {
    var d = row.dataset, words = form.words.value.toLowerCase().split(/\s+/);
    return (!form.scenario.value || d.scenario === form.scenario.value) &&
      (!form.verdict.value || d.verdict === form.verdict.value) &&
      words.every(function (word) { return d.words.toLowerCase().indexOf(word) >= 0; });
  }
  function filter() {
    var found = 0;
    rows.forEach(function (row) { row.hidden = !fits(row) || ++found > most; });
    var shown = Math.min(found, most), told = found === rows.length ? rows.length.toLocaleString("en") + " runs" :
      found.toLocaleString("en") + " of " + rows.length.toLocaleString("en") + " runs";
    count.textContent = told + (shown < found ? ", the first " + shown + " shown" : "");
    none.hidden = found > 0;
    more.hidden = shown === found;
    more.textContent = "Show " + Math.min(PAGE, found - shown) + " more of " + (found - shown).toLocaleString("en");
  }
  function value(row, at) { return row.cells[at].dataset.v; }
  function sort(at, down) {
    var numbers = heads[at].dataset.sort === "number", sign = down ? -1 : 1;
    rows.sort(function (a, b) {
      var x = value(a, at), y = value(b, at);
      if (x === "" || y === "") { return (x === "") - (y === ""); }
      return sign * (numbers ? x - y : x < y ? -1 : x > y ? 1 : 0);
    });
    heads.forEach(function (head, i) {
      if (i === at) { head.setAttribute("aria-sort", down ? "descending" : "ascending"); } else { head.removeAttribute("aria-sort"); }
    });
    rows.forEach(function (row) { body.appendChild(row); });
    form.sort.value = at + (down ? "-" : "+");
    filter();
  }
  heads.forEach(function (head, at) {
    var button = document.createElement("button");
    button.type = "button"; button.textContent = head.textContent;
    head.textContent = ""; head.appendChild(button);
    button.addEventListener("click", function () {
      var now = head.getAttribute("aria-sort");
      sort(at, now ? now === "ascending" : at === 0);
    });
  });
  form.addEventListener("submit", function (event) { event.preventDefault(); });
  form.addEventListener("input", function (event) {
    most = PAGE;
    if (event.target === form.sort) { sort(parseInt(form.sort.value, 10), form.sort.value.slice(-1) === "-"); } else { filter(); }
  });
  more.addEventListener("click", function () {
    var first = rows.filter(function (row) { return fits(row); })[most];
    most += PAGE;
    filter();
    if (first) { first.cells[0].querySelector("a").focus(); }
  });
  form.hidden = false;
  sort(0, true);
})();
