(function () {
  var root = document.documentElement, theme = document.getElementById("pk-theme"), code = document.getElementById("pk-code");
  function saved() { try { return localStorage.getItem("pk-theme"); } catch (e) { return null; } }
  function dark() {
    var set = root.getAttribute("data-theme");
    return set ? set === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }
  function label() { theme.textContent = dark() ? "Light theme" : "Dark theme"; }
  if (saved() === "dark" || saved() === "light") { root.setAttribute("data-theme", saved()); }
  theme.addEventListener("click", function () {
    var next = dark() ? "light" : "dark";
    root.setAttribute("data-theme", next);
    try { localStorage.setItem("pk-theme", next); } catch (e) { /* a page may be refused its storage */ }
    label();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
  code.addEventListener("click", function () {
    var open = code.getAttribute("aria-pressed") !== "true";
    document.querySelectorAll("details.pk-source").forEach(function (d) { d.open = open; });
    code.setAttribute("aria-pressed", String(open));
    code.textContent = open ? "Hide code" : "Show code";
  });
  function goTo() {
    var target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target && target.tagName === "DETAILS") { target.open = true; }
  }
  window.addEventListener("hashchange", goTo);
  var toc = document.querySelector(".pk-toc details");
  if (matchMedia("(max-width: 70rem)").matches) { toc.open = false; }
  theme.hidden = code.hidden = false;
  label();
  goTo();
})();
