/* Renders every .arithmatex element with KaTeX: \(…\) in a line, \[…\] on its own.
   Without this file, or after an error, the TeX itself stays on the page. */
for (const element of document.querySelectorAll(".arithmatex")) {
  const source = element.textContent.trim().replace(/^\\[([]|\\[)\]]$/g, "").trim()
  try {
    katex.render(source, element, {
      displayMode: element.tagName === "DIV",
      output: "htmlAndMathml",
      throwOnError: true,
      strict: "error",
    })
  } catch (error) {
    console.error(`math: ${error.message} in ${source}`)
  }
}
