(function () {
  var code = document.getElementById("pk-code");
  code.addEventListener("click", function () {
    var open = code.getAttribute("aria-pressed") !== "true";
    document.body.classList.toggle("pk-coded", open);
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
  code.hidden = false;
  document.body.classList.add("pk-switched");
  goTo();
})();
