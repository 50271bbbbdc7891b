#compdef PROGRAM
# Completion of PROGRAM for zsh:  PROGRAM completion zsh > "${fpath[1]}/_PROGRAM"
_PROGRAM() {
  local -a found entries
  local line last word about
  found=("${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
  (( $#found )) || return 1
  last=$found[-1]
  found=("${(@)found[1,-2]}")
  for line in $found; do
    word=${line%%$'\t'*}
    about=${line#*$'\t'}
    [[ $about != $line ]] || about=
    entries+=("${word//:/\\:}${about:+:$about}")
  done
  (( ! $#entries )) || _describe PROGRAM entries
  [[ $last != :0 ]] || _files
}
if [[ $funcstack[1] == _PROGRAM ]]; then _PROGRAM "$@"; else compdef _PROGRAM PROGRAM; fi
