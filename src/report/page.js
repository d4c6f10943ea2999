
(function () {
  "use strict";
  var search = document.getElementById("search");
  if (!search) return;
  var found = document.getElementById("found");
  var boxes = Array.prototype.slice.call(document.querySelectorAll("[data-kind]"));
  var items = Array.prototype.slice.call(document.querySelectorAll("[data-is]")).map(function (element) {
    return { element: element, text: element.textContent.toLowerCase(), kinds: element.getAttribute("data-is").split(" ") };
  });
  function apply() {
    var words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    var wanted = boxes.filter(function (box) { return box.checked; }).map(function (box) { return box.getAttribute("data-kind"); });
    var shown = 0;
    items.forEach(function (item) {
      var fits = words.every(function (word) { return item.text.indexOf(word) >= 0; }) &&
        (wanted.length === 0 || wanted.some(function (kind) { return item.kinds.indexOf(kind) >= 0; }));
      item.element.hidden = !fits;
      if (fits) shown += 1;
    });
    found.textContent = shown === items.length ? items.length + " in all" : shown + " of " + items.length;
  }
  search.addEventListener("input", apply);
  boxes.forEach(function (box) { box.addEventListener("change", apply); });
  document.addEventListener("keydown", function (event) {
    if (event.key === "/" && document.activeElement !== search) { event.preventDefault(); search.focus(); }
  });
  window.addEventListener("hashchange", function () {
    var target = document.getElementById(location.hash.slice(1));
    if (target && target.hidden) { search.value = ""; boxes.forEach(function (box) { box.checked = false; }); apply(); target.scrollIntoView(); }
  });
  apply();
})();
