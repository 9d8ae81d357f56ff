# Options for a run.sh: sourced below its variables, with its arguments. Every variable that stands there is an option,
# and so is every one of recipe_options.sh: lower-case names at the start of a line; arrays and upper-case names are not.
# `--opt value` and `--opt=value`, dash and underscore alike. An option whose default is a whole number takes only such,
# and `--opt` alone is true where the default is true or false. All mistakes are shown at once; exit code 2.
# shellcheck shell=bash

fail() { # CODE MESSAGE
  printf '%s: %s\n' "$RUN_SH" "$2" >&2
  exit "$1"
}

option_table() { # name, tab, comment of each option; those of the run.sh first
  awk '
    FNR == 1 { above = 1 }
    /^source .*parse_options\.sh/ { above = 0 }
    !above || !/^[a-z][a-z0-9_]*=([^(]|$)/ { next }
    {
      name = $0; sub(/=.*/, "", name)
      if (!seen[name]++) printf "%s\t%s\n", name, match($0, / # .*/) ? substr($0, RSTART + 3) : ""
    }
  ' "$RUN_SH" "$ROOT/tools/recipe_options.sh"
}

print_help() {
  local name comment value
  printf 'usage: ./%s [--option value ...]\n\n' "$RUN_SH"
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$RUN_SH"
  printf '\nOptions and their defaults:\n'
  while IFS=$'\t' read -r name comment; do
    value=${!name}
    [[ $value != *" "* ]] || value="\"$value\""
    printf '  --%-38s %s\n' "${name//_/-} $value" "$comment"
  done < <(option_table)
}

nearest_option() { # a hint, empty where nothing is near or there is no Python yet
  python3 -ISc 'import difflib, sys
near = difflib.get_close_matches(sys.argv[1], sys.argv[2:], 1, 0.5)
print("; did you mean --%s?" % near[0].replace("_", "-") if near else "; see --help")' "$1" "${OPTIONS[@]}" 2>/dev/null ||
    true
}

absolute_path() { # KIND PATH: what is read may lie in the recipe's folder as well
  if [[ -z $2 || $2 == /* || ($1 == input && ! -e $CALLER_DIR/$2 && -e $2) ]]; then
    printf '%s' "$2"
  else
    printf '%s/%s' "$CALLER_DIR" "$2"
  fi
}

absolute_list() { # DIR,DIR,...
  local path paths joined=""
  IFS=, read -ra paths <<<"$1"
  for path in "${paths[@]}"; do
    joined+=${joined:+,}$(absolute_path input "$path")
  done
  printf '%s' "$joined"
}

set_option() { # NAME VALUE
  local name=$1 value=$2 default=${!1}
  case $default in
    true | false)
      [[ $value == true || $value == false ]] || MISTAKES+=("--${name//_/-} is true or false, not '$value'") ;;
    *[!0-9]* | "") ;;
    *) [[ $value =~ ^[0-9]+$ ]] || MISTAKES+=("--${name//_/-} takes a whole number, not '$value'") ;;
  esac
  if is_among "$name" "${PATH_LISTS[@]}"; then
    value=$(absolute_list "$value")
  elif is_among "$name" "${INPUT_PATHS[@]}"; then
    value=$(absolute_path input "$value")
  elif is_among "$name" "${OUTPUT_PATHS[@]}"; then
    value=$(absolute_path output "$value")
  fi
  printf -v "$name" '%s' "$value"
}

is_among() { # WORD WORDS...
  local word
  for word in "${@:2}"; do
    [[ $word != "$1" ]] || return 0
  done
  return 1
}

option_name() { # --some-option=value -> some_option
  local name=${1%%=*}
  name=${name#--}
  printf '%s' "${name//-/_}"
}

is_option() { # an option that there is, as it stands on the command line
  [[ $1 == --* ]] && is_among "$(option_name "$1")" "${OPTIONS[@]}"
}

parse_options() {
  local name
  mapfile -t OPTIONS < <(option_table | cut -f 1)
  MISTAKES=()
  while (($#)); do
    if [[ $1 == -h || $1 == --help ]]; then
      print_help
      exit 0
    fi
    name=$(option_name "$1")
    if ! is_option "$1"; then
      MISTAKES+=("unknown option $1$(nearest_option "$name")")
      [[ $# -lt 2 || $1 == *=* || $2 == --* ]] || shift # its value
    elif [[ $1 == *=* ]]; then
      set_option "$name" "${1#*=}"
    elif [[ $# -ge 2 ]] && ! is_option "$2"; then
      set_option "$name" "$2"
      shift
    elif [[ ${!name} == true || ${!name} == false ]]; then
      set_option "$name" true
    else
      MISTAKES+=("$1 needs a value")
    fi
    shift
  done
  if ((${#MISTAKES[@]})); then
    printf '%s\n' "${MISTAKES[@]/#/$RUN_SH: }" >&2
    exit 2
  fi
}

parse_options "$@"
