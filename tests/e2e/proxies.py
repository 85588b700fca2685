"""The README's proxies in front of daemons: its configurations, without TLS."""

import asyncio
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.supervisor import quiet_port
from tests.programs import program
from tests.readme import blocks
from tests.within import PATIENCE_S

__all__ = ["NGINX", "caddy", "haproxy", "listens", "nginx"]

NGINX = """
daemon off;
pid {place}/nginx.pid;
error_log {place}/error.log;
worker_processes 1;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {place}/body;
  proxy_temp_path {place}/proxy;
  fastcgi_temp_path {place}/fastcgi;
  uwsgi_temp_path {place}/uwsgi;
  scgi_temp_path {place}/scgi;
{site}
}}
"""
CADDY = """{{
	admin off
	auto_https off
	default_bind 127.0.0.1
}}
{site}
"""


HAPROXY = """
frontend public
  mode http
  bind 127.0.0.1:{port}
  timeout client 90s
  default_backend typelets_ws
{site}
"""


def _site(language: str, ports: Sequence[int]) -> str:
    """The README's block with these ports in place of 8771 and 8772."""
    (site,) = (block.text for block in blocks() if block.language == language)
    for ours, theirs in zip(("8771", "8772"), ports, strict=True):
        assert f" 127.0.0.1:{ours}" in site
        site = site.replace(f" 127.0.0.1:{ours}", f" 127.0.0.1:{theirs}")
    return site


@contextmanager
def nginx(place: Path, ports: Sequence[int]) -> Iterator[int]:
    """Gives the port of nginx."""
    port = quiet_port()
    site = _site("nginx", ports)
    lines = [line for line in site.splitlines() if "ssl_" not in line]
    site = "\n".join(lines).replace("listen 443 ssl", f"listen 127.0.0.1:{port}")
    config = place / "nginx.conf"
    config.write_text(NGINX.format(place=place, site=site))
    command = [program("nginx"), "-c", str(config), "-p", str(place)]
    with _running(command, place / "nginx.log"):
        yield port


@contextmanager
def caddy(place: Path, ports: Sequence[int]) -> Iterator[int]:
    """Gives the port of Caddy. Before 2.7 it runs without `stream_close_delay`."""
    port = quiet_port()
    site = _site("caddy", ports).replace("ws.example.com", f"http://:{port}")
    version = subprocess.run(
        [program("caddy"), "version"], capture_output=True, text=True, check=True
    ).stdout
    number = re.search(r"(\d+)\.(\d+)", version)
    if number is not None and (int(number[1]), int(number[2])) < (2, 7):
        site = re.sub(r"\s+stream_close_delay .*", "", site)
    config = place / "Caddyfile"
    config.write_text(CADDY.format(site=site))
    command = [program("caddy"), "run", "--config", str(config)]
    command += ["--adapter", "caddyfile"]
    with _running(command, place / "caddy.log"):
        yield port


@contextmanager
def haproxy(place: Path, ports: Sequence[int]) -> Iterator[int]:
    """Gives the port of HAProxy."""
    port = quiet_port()
    config = place / "haproxy.cfg"
    config.write_text(HAPROXY.format(port=port, site=_site("haproxy", ports)))
    with _running([program("haproxy"), "-f", str(config)], place / "haproxy.log"):
        yield port


@contextmanager
def _running(command: Sequence[str], log: Path) -> Iterator[None]:
    with log.open("wb") as stream:
        # Caddy keeps its last configuration at home.
        home = {"HOME": str(log.parent), "XDG_CONFIG_HOME": str(log.parent)}
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, env={**os.environ, **home}
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


async def listens(port: int) -> bool:
    """Whether a connection to the port succeeds."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
