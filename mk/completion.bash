# bash completion for the mabn tools: options come from the tools' own tables (--list-options),
# so they cannot drift; everything else completes as file names.
_mabn()
{
    local tool=${COMP_WORDS[0]} word=${COMP_WORDS[COMP_CWORD]} list
    COMPREPLY=()
    list=$("$tool" --list-options 2>/dev/null) || return
    if [[ $list != --* ]]; then # subcommands
        if ((COMP_CWORD == 1)); then
            mapfile -t COMPREPLY < <(compgen -W "$list --help --version" -- "$word")
            return
        fi
        list=$("$tool" "${COMP_WORDS[1]}" --list-options 2>/dev/null) || return
    fi
    if [[ $word == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$list" -- "$word")
        [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace
    else
        compopt -o default
    fi
}
complete -F _mabn mabn-bench mabn-compose mabn-convert mabn-draw mabn-eval mabn-info mabn-init \
    mabn-pack mabn-plot mabn-score mabn-train
