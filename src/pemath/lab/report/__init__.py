"""From a run folder to something to read: terminal tables, CSV, Markdown, SVG and one HTML page.

`read` checks the files, `measure` computes metrics and resamples, `claims` and `causes` judge,
`results` and `facts` make tables; `forest`, `curves` and `heatmap` pictures; `build` puts them in order, and `page`,
`markdown` and `sheets` write them down.
"""
