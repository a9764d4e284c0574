// Mermaid scales a diagram down to the width of the page. Don't scale it below 54% of its size; it scrolls instead.
const render = mermaid.render
mermaid.render = async (...given) => {
  const drawn = await render(...given)
  const svg = drawn.svg.replace(/max-width: ([\d.]+)px;/, (style, width) => `${style} min-width: ${width * 0.54}px;`)
  return { ...drawn, svg }
}
