# Completion of PROGRAM for bash:  source <(PROGRAM completion bash)
_PROGRAM_complete() {
  local line=${COMP_LINE:0:COMP_POINT} current kept last i
  local -a words found
  read -ra words <<<"$line"
  [[ $line != *[[:space:]] ]] || words+=("")
  mapfile -t found < <("${words[0]}" __complete "${words[@]:1}" 2>/dev/null)
  ((${#found[@]})) || return
  last=${found[-1]}
  unset 'found[-1]'
  found=("${found[@]%%$'\t'*}")
  current=${words[-1]}
  if [[ $last == :0 && $current != *=* ]]; then
    compopt -o filenames
    mapfile -t -O "${#found[@]}" found < <(compgen -f -- "$current")
  fi
  # A path in a container goes on behind the colon.
  [[ ${#found[@]} != 1 || ${found[0]} != *: ]] || compopt -o nospace
  # What readline replaces begins behind the last of these.
  kept=${current%"${current##*[=:]}"}
  for i in "${!found[@]}"; do found[i]=${found[i]#"$kept"}; done
  COMPREPLY=("${found[@]}")
}
complete -F _PROGRAM_complete PROGRAM
