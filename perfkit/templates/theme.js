(function () {
  var root = document.documentElement, theme = document.getElementById("pk-theme");
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
  theme.hidden = false;
  label();
})();
