// Make what scrolls sideways focusable, so that the arrow keys scroll it (WCAG 2.1.1).
function makeScrollableFocusable() {
  for (const element of document.querySelectorAll(".md-typeset__scrollwrap, pre > code, div.mermaid")) {
    element.toggleAttribute("tabindex", false)
    if (element.scrollWidth > element.clientWidth) element.setAttribute("tabindex", "0")
  }
}
window.addEventListener("load", makeScrollableFocusable)
window.addEventListener("resize", makeScrollableFocusable)
// Diagrams are drawn after the page was loaded.
new MutationObserver(makeScrollableFocusable).observe(document.querySelector("article"), { childList: true, subtree: true })
