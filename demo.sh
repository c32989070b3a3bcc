#!/usr/bin/env bash
# What it lives through, on the stack of docker-compose.yml: 1,000 POSTs while `docker kill` takes the mailer, the
# cdc-watcher, the subscriber and the api in turn, and RabbitMQ and Postgres are restarted. A client whose POST fails
# repeats it with the same Idempotency-Key. At the end every message is asked for, and every mail is counted.
#
#   docker compose up --detach --wait && ./demo.sh [MESSAGES]
#
# At most 5,000 messages: Mailpit keeps no more (MP_MAX_MESSAGES of docker-compose.yml), and every mail is counted.
# Needs bash, curl and docker. TIDINGS_KEY is sent where it is set.
set -euo pipefail
cd "$(dirname "$0")"

messages=${1:-1000}
if ! [ "$messages" -ge 10 ] 2>/dev/null || [ "$messages" -gt 5000 ]; then
    printf '%s\n' "demo.sh [MESSAGES]: from 10 to 5000" >&2
    exit 2
fi
workers=8
folder=$(mktemp -d)
run=$(date +%s)
topic=demo-$run
reader=demo-$run@example.com

setting() { # NAME: what the shell or .env says
    if [ -n "${!1:-}" ]; then printf '%s' "${!1}"; else sed -n "s/^$1=//p" .env; fi
}
api=http://localhost:$(setting TIDINGS_PORT)
mailpit=http://localhost:$(setting MAILPIT_PORT)
grafana=http://localhost:$(setting GRAFANA_PORT)

say() { printf '%s\n' "$*"; }

# curl with the key; what fails is said.
call() { curl --silent --show-error --fail-with-body --max-time 40 ${TIDINGS_KEY:+--header "Authorization: Bearer $TIDINGS_KEY"} "$@"; }

containers() { docker compose ps --all --quiet "$1"; }

finish() {
    trap - EXIT INT TERM
    jobs -p | xargs -r kill 2>/dev/null || true
    # Nothing is left dead behind.
    for service in api subscriber cdc-watcher mailer rabbitmq postgres; do
        containers "$service" | xargs -r docker start >/dev/null 2>&1 || true
    done
    rm -rf "$folder"
}
trap finish EXIT
trap 'exit 130' INT TERM

# The member NAME of the JSON on stdin, a text or a number: the first one.
member() { grep -oE "\"$1\": *(\"[^\"]*\"|[0-9]+)" | head -n 1 | sed -E 's/^[^:]*: *//; s/"//g'; }

# Posts message NUMBER until it is accepted: a line `number id tries`.
post() {
    local number=$1 tries=0 until=$((SECONDS + 180)) body=$folder/body-$1 code
    while [ "$SECONDS" -lt "$until" ]; do
        tries=$((tries + 1))
        code=$(curl --silent --output "$body" --write-out '%{http_code}' --max-time 20 \
            ${TIDINGS_KEY:+--header "Authorization: Bearer $TIDINGS_KEY"} \
            --header "idempotency-key: $topic-$number" --header 'content-type: text/plain' \
            --data "Message $number of the demo" "$api/v1/topics/$topic/messages") || code=000
        if [ "$code" = 202 ]; then
            printf '%s %s %s\n' "$number" "$(member id <"$body")" "$tries" >>"$folder/accepted"
            rm -f "$body"
            return
        fi
        sleep 0.2
    done
    say "message $number was not accepted in 180 s: $(cat "$body" 2>/dev/null)"
}

worker() { # FIRST: every eighth message, a few a second
    local number=$1
    while [ "$number" -le "$messages" ]; do
        post "$number"
        number=$((number + workers))
        sleep 0.12
    done
}

accepted() { wc -l <"$folder/accepted" | tr -d ' '; }

# Waits until a share of the messages is accepted, in tenths.
reach() { while [ "$(accepted)" -lt $((messages * $1 / 10)) ]; do sleep 0.1; done; }

kill_service() { # SERVICE: all its containers, and starts them again
    containers "$1" | xargs docker kill >/dev/null
    sleep 1
    containers "$1" | xargs docker start >/dev/null
    say "   killed the $1 after $(accepted) POSTs, and started it again"
}

restart_server() { # SERVICE
    docker compose restart "$1" >/dev/null 2>&1
    say "   restarted $1 after $(accepted) POSTs"
}

say "1. $reader hears of the topic $topic"
call --output /dev/null --request PUT --header 'content-type: application/json' --data '{"subject":"Demo"}' "$api/v1/topics/$topic"
subscription=$(call --header 'content-type: application/json' --data "{\"email\":\"$reader\",\"confirmed\":true}" \
    "$api/v1/topics/$topic/subscriptions" | grep -oE '"subscription": *\{.*' | member id)

say "2. $messages POSTs, and in between every process is killed and both servers are restarted"
began=$SECONDS
: >"$folder/accepted"
posting=()
for first in $(seq "$workers"); do
    worker "$first" &
    posting+=("$!")
done
reach 1; kill_service mailer
reach 2; kill_service cdc-watcher
reach 3; kill_service subscriber
reach 4; kill_service api
reach 6; restart_server rabbitmq
reach 8; restart_server postgres
wait "${posting[@]}"
again=$(awk '$3 > 1' "$folder/accepted" | wc -l | tr -d ' ')
say "   all were posted after $((SECONDS - began)) s, $again of them more than once"

say "3. each message is asked for until it is done or a dead letter"
# `id state stored sent accepted_at first_mail_at`, a - for what is not there.
ask() {
    local id=$1 until=$((SECONDS + 120)) status state
    while :; do
        status=$(call "$api/v1/messages/$id?wait=30s" 2>/dev/null) || status=
        state=$(member state <<<"$status" || true)
        case $state in done | dead_letter) break ;; esac
        [ "$SECONDS" -lt "$until" ] || break
        sleep 0.5
    done
    at() { local text; text=$(member "$1" <<<"$status" || true); printf '%s' "${text:--}"; }
    printf '%s %s %s %s %s %s\n' "$id" "${state:--}" "$(at stored_at)" "$(at sent)" "$(at accepted_at)" "$(at first_mail_at)" \
        >>"$folder/status-$2"
}
asking=()
for first in $(seq "$workers"); do
    awk -v n="$workers" -v k="$first" 'NR % n == k % n { print $2 }' "$folder/accepted" | while read -r id; do ask "$id" "$first"; done &
    asking+=("$!")
done
wait "${asking[@]}"
cat "$folder"/status-* >"$folder/status"

# Mails to the reader beyond the first with the same Message-ID.
twice=$(call "$mailpit/api/v1/search?query=to:$reader&limit=100000" | grep -oE '"MessageID": *"[^"]*"' | sort | uniq -c |
    awk '{ twice += $1 - 1 } END { print twice + 0 }')

# The message that took longest from its acceptance to its mail.
longest=$(awk '
    function seconds(at) { return substr(at, 9, 2) * 86400 + substr(at, 12, 2) * 3600 + substr(at, 15, 2) * 60 + substr(at, 18, 6) }
    $6 != "-" { took = seconds($6) - seconds($5); if (took > most) { most = took; id = $1 } }
    END { printf "%s %.1f", id, most }' "$folder/status")
if [ -n "${longest% *}" ]; then
    say "   the longest way took ${longest#* } s: $grafana/d/tidings-pipeline?var-message_id=${longest% *}"
else
    say "   no message tells when it was mailed"
fi

say "   (what was being mailed when the mailer was killed is taken up again when its lease of a minute has run out; whether it had been"
say "   mailed is not known then, and it is mailed again: sent twice counts these)"

call --output /dev/null --request DELETE "$api/v1/subscriptions/$subscription"
call --output /dev/null --request DELETE "$api/v1/topics/$topic"

say
awk -v posted="$messages" -v twice="$twice" '
    { accepted++ }
    $3 != "-" { stored++ }
    $4 > 0 { mailed++ }
    $2 == "dead_letter" { dead++ }
    !($4 > 0) && $2 != "dead_letter" { lost++ }
    END {
        printf "accepted %d, stored %d, mailed %d, dead letters %d, lost %d, sent twice %d\n", accepted, stored, mailed, dead, lost, twice
        exit !(accepted == posted && lost == 0)
    }' "$folder/status"
