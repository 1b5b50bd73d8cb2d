"""A hook of MkDocs: our stylesheet and script without comments and spaces."""

from pathlib import Path

import rcssmin
import rjsmin
from mkdocs.config.defaults import MkDocsConfig

MINIFY = {"css/house.css": rcssmin.cssmin, "js/house.js": rjsmin.jsmin}


def on_post_build(config: MkDocsConfig) -> None:
    """Write both files again, smaller."""
    for name, minify in MINIFY.items():
        path = Path(config.site_dir, "assets", name)
        path.write_text(minify(path.read_text(encoding="utf-8")), encoding="utf-8")
