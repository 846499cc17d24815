"""Who reaches what, through which layer, as a picture.

`segments` works it out from policy and site, `drawing` makes an SVG of it, `page` an
HTML page with what a compromised node could touch.
"""
