#!/usr/bin/env bash
# Makes an authority and a certificate for each server of docker-compose.tls.yml, or for the HOSTs that are named, for a trial
# on this machine: into deploy/tls/certificates, valid for 90 days. An authority that is there is kept. The keys are readable by
# everyone here: make others for servers that are reached from elsewhere. Needs openssl.
#
#   deploy/tls/certificates.sh [HOST...]
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p certificates
cd certificates
[ $# -gt 0 ] || set -- postgres rabbitmq redis
[ -e authority.pem ] || openssl req -x509 -newkey rsa:2048 -nodes -days 90 -subj '/CN=Tidings trial authority' -keyout authority.key -out authority.pem 2>/dev/null
for host in "$@"; do
    openssl req -newkey rsa:2048 -nodes -subj "/CN=$host" -keyout "$host.key" -out "$host.csr" 2>/dev/null
    printf 'subjectAltName = DNS:%s\nextendedKeyUsage = serverAuth\n' "$host" >"$host.ext"
    openssl x509 -req -in "$host.csr" -CA authority.pem -CAkey authority.key -CAcreateserial -days 90 -extfile "$host.ext" -out "$host.pem" 2>/dev/null
    chmod 644 "$host.key"
    rm "$host.csr" "$host.ext"
done
echo "made $PWD"
