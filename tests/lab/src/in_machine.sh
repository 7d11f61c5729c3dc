#!/bin/sh
# in_machine NAME SECONDS LINE: says LINE at the console of machine NAME, which is tied to /tmp/NAME.in and /tmp/NAME.out.
# Prints what the machine prints, ends with the status that it ends with.
out=/tmp/$1.out
from=$(($(wc -c < "$out") + 1))
said() { tail -c "+$from" "$out" | tr -d '\r'; }
echo "$3" > "/tmp/$1.in"
end=$(($(date +%s) + $2))
until said | tr '\n' ' ' | grep -q '@@ [0-9][0-9]* '; do
    if [ "$(date +%s)" -ge "$end" ]; then
        said
        echo "not within $2 s"
        exit 124
    fi
    sleep 0.1
done
text=$(said)
echo "${text%@@ *}"
exit "${text##*@@ }"
