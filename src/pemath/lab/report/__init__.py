"""From a run folder to something to read: terminal tables, CSV, Markdown, SVG and one HTML page.

`lines` and `read` check the files, `measure` computes metrics and resamples, `followed` those of
compositions followed over a weight. Each kind of experiment has its page, which judges, tabulates and
draws: `merging` (with `claims`, `causes`, `results`, `forest`, `curves`, `heatmap`), `subtraction` and
`transfer`. `common`, `facts` and `missing` are what pages share; `build` picks one, and `page`,
`markdown` and `sheets` write it down.
"""
