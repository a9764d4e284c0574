"""For a provider that knows only https on port 443 (before 7.1): its requests to 127.0.0.1 reach the local workspace.

Python imports it at its start, in the environments of Airflow whose PYTHONPATH has this folder.
"""

import os

import aiohttp
import requests

WORKSPACE = os.environ["BIOCLOUD_TEST_WORKSPACE"]


def _local(url):
    return str(url).replace("https://127.0.0.1/", f"{WORKSPACE}/", 1)


def _request(self, method, url, *arguments, **named):
    return _send(self, method, _local(url), *arguments, **named)


async def _async_request(self, method, url, *arguments, **named):
    return await _async_send(self, method, _local(url), *arguments, **named)


_send, _async_send = requests.Session.request, aiohttp.ClientSession._request
requests.Session.request, aiohttp.ClientSession._request = _request, _async_request
