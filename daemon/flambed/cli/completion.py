"""Completion scripts for shells, made of the table of commands."""

from __future__ import annotations

from collections.abc import Iterator

from flambed.cli.arguments import COMMANDS, COMMON, SHELLS, Command


def script(shell: str) -> str:
    """Return the script of bash, zsh or fish."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell]()


def _bash() -> str:
    commands = " ".join(command.name for command in COMMANDS)
    options = "\n".join(
        f"        {command.name}) options='{' '.join(option.name for option in command.options)}' ;;"
        for command in COMMANDS
    )
    values = "|".join(sorted({option.name for command in COMMANDS for option in command.options if option.takes_value}))
    return f"""\
# bash completion of flambectl: source <(flambectl completion bash)
_flambectl() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} command='' options='' skip='' given
    for given in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        if [[ -n $skip ]]; then skip=''
        else
            case $given in
                {values}) skip=1 ;;
                -*) ;;
                *) command=$given; break ;;
            esac
        fi
    done
    COMPREPLY=()
    if [[ -z $command ]]; then
        COMPREPLY=($(compgen -W '{commands} {" ".join(option.name for option in COMMON)}' -- "$word"))
        return
    fi
    case $command in
{options}
    esac
    if [[ $word == -* ]]; then
        COMPREPLY=($(compgen -W "$options" -- "$word"))
        return
    fi
    case $command in
        {_taking("FILE")}) COMPREPLY=($(compgen -f -- "$word")) ;;
        {_taking("NAME")}) COMPREPLY=($(compgen -W "$(flambectl list --names 2>/dev/null)" -- "$word")) ;;
        {_taking("SHELL")}) COMPREPLY=($(compgen -W '{" ".join(SHELLS)}' -- "$word")) ;;
    esac
}}
complete -o filenames -F _flambectl flambectl
"""


def _zsh() -> str:
    return f"#compdef flambectl\nautoload -U +X bashcompinit && bashcompinit\n{_bash()}"


def _fish() -> str:
    lines = ["# fish completion of flambectl: flambectl completion fish | source", "complete -c flambectl -f"]
    lines += (
        f"complete -c flambectl -n __fish_use_subcommand -a {command.name} -d {_fish_quoted(command.help)}"
        for command in COMMANDS
    )
    lines += (line for command in COMMANDS for line in _fish_command(command))
    return "\n".join(lines) + "\n"


def _fish_command(command: Command) -> Iterator[str]:
    complete = f"complete -c flambectl -n '__fish_seen_subcommand_from {command.name}'"
    for option in command.options:
        value = " -r" if option.takes_value else ""
        yield f"{complete} -l {option.name.lstrip('-')}{value} -d {_fish_quoted(option.help)}"
    match _first(command):
        case "FILE":
            yield f"{complete} -F"
        case "NAME":
            yield f"{complete} -a '(flambectl list --names 2>/dev/null)'"
        case "SHELL":
            yield f"{complete} -a '{' '.join(SHELLS)}'"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _first(command: Command) -> str:
    return command.positionals[0].more.get("metavar", "") if command.positionals else ""


def _taking(what: str) -> str:
    return "|".join(command.name for command in COMMANDS if _first(command) == what)
