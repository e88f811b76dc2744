"""Checks of the connection to download hosts."""

from collections.abc import Iterable
from urllib.parse import urlsplit

_TIMEOUT = 10  # Seconds.


def unreachable(urls: Iterable[str]) -> list[str]:
    """Returns the hosts of the URLs if no host answers, else an empty list.

    Args:
      urls: URLs; those that are not HTTP are ignored.
    """
    hosts = {urlsplit(url).netloc: url for url in urls if url.startswith("http")}
    return [] if any(_answers(url) for url in hosts.values()) else list(hosts)


def _answers(url: str) -> bool:
    """Returns False if there is no connection to the host of `url`."""
    import requests  # TFDS uses it too, with the same proxies and certificates.

    try:
        requests.head(url, timeout=_TIMEOUT)
    except requests.ConnectionError:
        return False
    except requests.RequestException:  # The host answers; the download reports other problems.
        return True
    return True
