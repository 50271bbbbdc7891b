#!/bin/sh
# PostgreSQL in the foreground; a new volume gets a cluster and what /srv/init.sql makes.
set -eu
data=/var/lib/stack-db/data
PATH=/usr/lib/postgresql/15/bin:$PATH
as() { setpriv --reuid=postgres --regid=postgres --clear-groups "$@"; }

if [ ! -s "$data/ready" ]; then
  rm -rf "$data"
  install -d -o postgres -g postgres -m 700 "$data"
  as initdb -D "$data" --auth=trust >/dev/null
  echo "host all all samenet trust" >>"$data/pg_hba.conf"
  as pg_ctl -D "$data" -w -o "-k /tmp -h ''" start >/dev/null
  as psql -q -v ON_ERROR_STOP=1 -h /tmp -f /srv/init.sql
  as pg_ctl -D "$data" -w stop >/dev/null
  echo yes >"$data/ready"
fi
exec setpriv --reuid=postgres --regid=postgres --clear-groups postgres -D "$data" -k /tmp -h '*'
