"""``kvpoll serve``: metrics, probes, a JSON API and pages over the tables of one server. Extra ``serve``.

Invariant: it reads with a user who can only read. Only actions.py writes, with a connection of its own, and only if the
operator allowed it. What others wrote (reasons, owners, requests) is text everywhere: markup.py escapes it, and the
page's scripts set textContent alone.

    watch.py      follows the table of one namespace
    screens/      one module a page: what it shows, as a View, and its HTML
    hub.py        one encoding of a View for all its viewers
    guard.py      who may call what
    metrics.py    /metrics
    app.py        the routes;  listen.py runs them

To add a page: write it in screens/, and add it to SCREENS there.
"""
