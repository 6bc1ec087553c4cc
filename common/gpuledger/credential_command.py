# SPDX-License-Identifier: Apache-2.0
"""`gpuledger agent credential` and `gpuledger collector credential`: one command, for either program's port."""

from __future__ import annotations

import json

import click

from gpuledger import access


@click.command()
@click.option("--user", metavar="NAME", help="Ask for this user's password instead of making a token.")
def credential(user: str | None) -> None:
    """Make a bearer token, or the digest of a password, for a port of gpuledger.

    Without --user it prints a new token and the line for bearer_tokens_file; with it, the line for [basic_auth_users].

    Exit codes: 0 printed, 1 no password was given, 2 usage.
    """
    if user is None:
        token, digest = access.new_token()
        click.echo(f"token for the client:         {token}")
        click.echo(f"line for bearer_tokens_file:  {digest}")
        return
    password = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    click.echo(f"{json.dumps(user)} = {json.dumps(access.hash_password(password))}")
