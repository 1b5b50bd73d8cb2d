/* The contents button, the search button, the keyboard, folds, and the signature card of
   identifiers. Everything else on the pages works without JavaScript. */

const drawer = document.getElementById("__drawer")
const menu = document.querySelector(".lm-menu")
const side = document.getElementById("contents")

/** Opens or closes the contents below 1220 px. */
const showContents = open => {
  drawer.checked = open
  menu.setAttribute("aria-expanded", String(open))
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

/* The theme opens its search when this box is ticked; the box itself is hidden. */
const search = document.getElementById("__search")
document.querySelector(".lm-find").addEventListener("click", () => search.click())
document.addEventListener("click", event => {
  if (search.checked && !event.target.closest(".md-search, .lm-find, #__search")) search.click()
})

/* Keeps the reader's place in a long contents bar in view. */
addEventListener("scrollend", () => {
  const here = side.querySelector(".md-nav__link--active")?.getBoundingClientRect()
  const box = side.getBoundingClientRect()
  if (here && (here.top < box.top || here.bottom > box.bottom))
    side.scrollTop += here.top - box.top - box.height / 3
})

/* The theme shows the stored choice of colours but leaves its radio button unticked. */
const choice = document.querySelectorAll("[name=__palette]")[__md_get("__palette")?.index ?? 0]
if (choice) choice.checked = true

/* What scrolls sideways takes the focus, so that the arrow keys can scroll it. */
const reach = () => {
  for (const box of document.querySelectorAll(".md-typeset :is(pre, table, div.arithmatex)"))
    if (box.scrollWidth > box.clientWidth && !box.hasAttribute("tabindex")) box.tabIndex = 0
}
addEventListener("resize", reach)
reach()

/* A row that is gone: its link, `section--words`, leads to its section. */
const lost = decodeURIComponent(location.hash.slice(1))
if (lost.includes("--") && !document.getElementById(lost)) {
  const section = CSS.escape(lost.split("--")[0])
  const place = document.querySelector(`#${section}, [id^="${section}-"]`)
  if (place) location.replace(`#${place.id}`)
}

/* A link that leads into a fold opens it, however the reader came: by address, by a click
   (the same link a second time too), back or forward. */
const unfold = () => {
  const place = document.querySelector(":target")
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
const named = link => `${link.getAttribute("href")} ${link.textContent}`
for (const link of names)
  if (link.dataset.signature) signatures.set(named(link), link.dataset.signature)
for (const link of names) {
  const signature = link.dataset.signature ?? signatures.get(named(link))
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
