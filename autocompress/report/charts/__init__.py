"""The charts of a report, one file for each.

- :mod:`.front_svg` and :mod:`.front_png` draw the front.
- :mod:`.layer_strip` draws the layers of the recommended model.
- :mod:`.recipe_steps` shows the effect of each step of the recommended recipe.
- :mod:`.heat_tables` shows losses by width and by bits.
- :mod:`.hypervolume_race` draws hypervolume over time beside a benchmark.
- ``front_scatter.js``, ``parallel_coordinates.js`` and ``hypervolume_progress.js`` draw the
  interactive charts of the page; :mod:`.interactive_data` makes their data, with the shares of
  :mod:`.parameter_importance`.
- :mod:`.drawing` and ``base.js`` have what charts share: scales, ticks and elements.
"""
