#!/bin/sh
# Makes the secrets of compose.yaml in secrets/, with random passwords. What is there stays.
set -eu
cd "$(dirname "$0")"
if [ -e secrets ]; then
    echo "secrets/ is there already; remove it for new passwords"
    exit 0
fi
# Others on this host cannot enter the folder; users in containers can read the files.
mkdir -m 700 secrets.new
random() { od -An -N18 -tx1 /dev/urandom | tr -d ' \n'; }
write=$(random)
read=$(random)
operator=$(random)
page=$(random)
board=$(random)
sed "s/WRITE_PASSWORD/$write/; s/READ_PASSWORD/$read/; s/OPERATOR_PASSWORD/$operator/" ../valkey/users.acl \
    >secrets.new/users.acl
echo "KVPOLL_URL=redis://kvpoll-read:$read@valkey:6379/0" >secrets.new/serve.env
echo "admin:$page" >secrets.new/page-users
echo "GF_SECURITY_ADMIN_PASSWORD=$board" >secrets.new/grafana.env
cat >secrets.new/passwords.txt <<END
SGLang:   export KVPOLL_URL=redis://kvpoll:$write@THIS_HOST:6379/0
Valkey:   docker compose exec valkey valkey-cli --user operator --askpass, password $operator
The page: http://127.0.0.1:9464, user admin, password $page
Grafana:  http://127.0.0.1:3000, user admin, password $board
END
chmod 644 secrets.new/*
mv secrets.new secrets
echo "made secrets/; passwords.txt has what you need to log in"
