#!/bin/busybox sh
# shellcheck shell=dash
# Process 1 of a test guest: mounts, loads the modules, then obeys the host.
#
# Commands come in on the second serial port, which the kernel's command line names and on which
# nothing else ever writes (the kernel talks on the first): a line "ID BASE64-OF-A-SCRIPT". The answer is a line "ID STATUS", the
# script's output in base64, and a line "ID end". One command at a time.
export PATH=/tools:/bin HOME=/tmp
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run

for module in /modules/*; do
    insmod "$module" || echo "cannot load $module" >/dev/console
done

port=/dev/${command_port:-ttyS1}
exec 3<>"$port"
stty -F "$port" raw -echo
echo "ready" >&3
# Not in process 1 itself, which is told of the end of every orphan: that interrupts its "read",
# which begins again without what it had of the line.
(
    while read -r id script <&3; do
        echo "$script" | base64 -d >/run/script
        sh /run/script >/run/output 2>&1 </dev/null 3>&-
        echo "$id $?" >&3
        base64 /run/output >&3
        echo "$id end" >&3
    done
)
echo "the host's end of the command port is closed" >/dev/console
sleep 1000000
