/* The contents button, the search, the keyboard, folds, formulas, and the signature card of
   identifiers. Everything else on the pages works without JavaScript. */

const here = document.currentScript.src

/** Adds a script or a stylesheet to the page; the promise waits for it. */
const load = (kind, attributes) => new Promise(onload => {
  document.head.append(Object.assign(document.createElement(kind), { ...attributes, onload }))
})

const drawer = document.getElementById("__drawer")
const menu = document.querySelector(".lm-menu")
const side = document.getElementById("contents")

/** Opens or closes the contents below 1220 px. */
const showContents = open => {
  drawer.checked = open
  menu.setAttribute("aria-expanded", String(open))
  if (open) mark()
}
menu.addEventListener("click", () => showContents(!drawer.checked))
side.addEventListener("click", event => event.target.closest("a") && showContents(false))
document.addEventListener("keydown", event => {
  if (event.key !== "Escape" || !drawer.checked) return
  showContents(false)
  menu.focus()
})
document.addEventListener("click", event => {
  if (drawer.checked && !event.target.closest("#contents, .lm-menu")) showContents(false)
})
showContents(false)

/* The theme's script is there for the search alone, and its index is larger than a chapter
   with all its figures: both are loaded when a search begins. The theme opens its search
   when this box is ticked; the box itself is hidden. */
const search = document.getElementById("__search")
const query = document.querySelector(".md-search__input")
query.addEventListener("focus", () => {
  load("script", { src: document.querySelector("script[data-src]").dataset.src })
}, { once: true })
document.querySelector(".lm-find").addEventListener("click", () => {
  search.checked = true
  query.focus()
})
document.addEventListener("keydown", event => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.target === query) return
  event.preventDefault()
  query.focus()
})
document.addEventListener("click", event => {
  if (search.checked && !event.target.closest(".md-search, .lm-find, #__search")) search.click()
})

/* Marks the reader's place in the contents bar, and keeps it in view in a long one. */
const entries = [...side.querySelectorAll(".lm-toc a")].map(link =>
  [link, document.getElementById(decodeURIComponent(link.hash.slice(1)))])
const mark = () => {
  if (!side.checkVisibility()) return
  const line = parseFloat(getComputedStyle(document.documentElement).scrollPaddingTop) + 2
  const last = entries.findLast(([, place]) => place?.getBoundingClientRect().top < line)
  for (const [link] of entries)
    link.classList.toggle("md-nav__link--active", link === last?.[0])
}
addEventListener("scroll", mark, { passive: true })
addEventListener("load", mark)
addEventListener("scrollend", () => {
  const place = side.querySelector(".md-nav__link--active")?.getBoundingClientRect()
  const box = side.getBoundingClientRect()
  if (place && (place.top < box.top || place.bottom > box.bottom))
    side.scrollTop += place.top - box.top - box.height / 3
})

/* What scrolls sideways takes the focus, so that the arrow keys can scroll it. */
const wide = ".md-typeset :is(pre, table, div.arithmatex):not([tabindex])"
const reach = () => {
  for (const box of document.querySelectorAll(wide))
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0
}
addEventListener("resize", reach)
addEventListener("load", reach)

/* What the address leads to. The browser's own :target comes later than this script. */
const anchor = () => decodeURIComponent(location.hash.slice(1))
const linked = () => document.getElementById(anchor())

/* A row that is gone: its link, `section--words`, leads to its section. */
const lost = anchor()
if (lost.includes("--") && !linked()) {
  const section = CSS.escape(lost.split("--")[0])
  const place = document.querySelector(`#${section}, [id^="${section}-"]`)
  if (place) location.replace(`#${place.id}`)
}

/* A link that leads into a fold opens it, however the reader came: by address, by a click
   (the same link a second time too), back or forward. */
const unfold = () => {
  const place = linked()
  let opened = false
  for (let fold = place?.closest("details"); fold; fold = fold.parentElement.closest("details")) {
    opened ||= !fold.open
    fold.open = true
  }
  if (opened) place.scrollIntoView()
}
addEventListener("hashchange", unfold)
document.addEventListener("click", event => {
  if (event.target.closest("a")?.hash === location.hash) setTimeout(unfold)
})
unfold()

/* On paper every fold is open. */
let folded = []
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")]
  for (const fold of folded) fold.open = true
})
addEventListener("afterprint", () => {
  for (const fold of folded) fold.open = false
})

/* Formulas: KaTeX is loaded when the first is within a screen of the view, and sets those
   that are, a few at a time. The others stay TeX, as all do without this script. */
const library = new URL("../katex/katex.min.js", here).href
const styles = { rel: "stylesheet", href: new URL("katex.min.css", library).href }
const waiting = new Map([...document.querySelectorAll(".arithmatex")].map(formula =>
  [formula, formula.textContent.trim().replace(/^\\[([]|\\[)\]]$/g, "").trim()]))
const near = new Set()
const typeset = formula => {
  const tex = waiting.get(formula)
  waiting.delete(formula)
  near.delete(formula)
  try {
    katex.render(tex, formula, {
      displayMode: formula.tagName === "DIV",
      output: "htmlAndMathml",
      throwOnError: true,
      strict: "error",
    })
  } catch (error) {
    console.error(`math: ${error.message} in ${tex}`)
  }
}

/** Sets what is near for 8 ms, then lets the page answer. */
const typesetSome = () => {
  const end = performance.now() + 8
  const root = document.documentElement
  // Safari does not hold the place when something above the view changes its height.
  const holds = getComputedStyle(root).overflowAnchor === "auto"
  for (const formula of near) {
    const above = !holds && formula.getBoundingClientRect().bottom < 0
    const height = above && root.scrollHeight
    typeset(formula)
    if (above) scrollBy(0, root.scrollHeight - height)
    if (performance.now() > end) break
  }
  if (near.size) setTimeout(typesetSome)
}
let ready = null
const watcher = new IntersectionObserver(seen => {
  for (const { target: formula } of seen.filter(entry => entry.isIntersecting)) {
    watcher.unobserve(formula)
    if (waiting.has(formula)) near.add(formula)
  }
  if (!near.size) return
  ready ??= Promise.all([load("link", styles), load("script", { src: library })])
  ready.then(typesetSome)
}, { rootMargin: "100% 0px" })
for (const formula of waiting.keys()) watcher.observe(formula)

/* Paper has every formula. A browser waits for a stylesheet and its fonts before it
   prints, but for no script that is loaded meanwhile. */
addEventListener("beforeprint", () => {
  if (waiting.size && !window.katex) {
    load("link", styles)
    const request = new XMLHttpRequest()
    request.open("GET", library, false)
    request.send()
    load("script", { text: request.responseText })
  }
  for (const formula of [...waiting.keys()]) typeset(formula)
})

/* One card for all identifiers: shown on hover and on focus, stays while the pointer
   is on it, leaves on Escape (WCAG 1.4.13). */
const card = document.createElement("div")
card.className = "lm-card"
card.id = "signature"
card.role = "tooltip"
card.hidden = true
document.body.append(card)
let owner = null
let leaving = 0

const hide = () => {
  card.hidden = true
  owner?.removeAttribute("aria-describedby")
  owner = null
}
const show = link => {
  clearTimeout(leaving)
  if (owner === link) return
  hide()
  owner = link
  card.textContent = link.dataset.signature
  card.hidden = false
  link.setAttribute("aria-describedby", card.id)
  const box = link.getBoundingClientRect()
  const below = box.bottom + card.offsetHeight + 12 < innerHeight
  const left = Math.min(box.left, document.documentElement.clientWidth - card.offsetWidth - 12)
  card.style.left = `${Math.max(left, 12) + scrollX}px`
  card.style.top = `${(below ? box.bottom + 6 : box.top - card.offsetHeight - 6) + scrollY}px`
}
const leave = () => { leaving = setTimeout(hide, 200) }

/* The first link of a name carries its signature; the others share it. In code every
   link is a name. */
const names = document.querySelectorAll(".lit-ref, pre > code a")
const signatures = new Map()
const key = link => `${link.getAttribute("href")} ${link.textContent}`
for (const link of names)
  if (link.dataset.signature) signatures.set(key(link), link.dataset.signature)
for (const link of names) {
  const signature = link.dataset.signature ?? signatures.get(key(link))
  if (!signature) continue
  link.dataset.signature = signature
  link.addEventListener("mouseenter", () => show(link))
  link.addEventListener("mouseleave", leave)
  link.addEventListener("focus", () => show(link))
  link.addEventListener("blur", hide)
}
card.addEventListener("mouseenter", () => clearTimeout(leaving))
card.addEventListener("mouseleave", leave)
document.addEventListener("keydown", event => event.key === "Escape" && hide())
