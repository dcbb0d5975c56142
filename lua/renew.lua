-- Renew the leases of one process that are held: its heartbeat. Times are milliseconds.
--
-- KEYS     epoch, leases, feed
-- ARGV     each: owner, incarnation, lease_ttl_ms, heartbeat_ms
-- REPLY    epoch, feed_id, room, status; each: state
-- FEED     nothing
-- INCLUDE  feed_end
--
-- The hot script of leases: it costs half of lease.lua, which does the rest. state: held; due, which is held while a
-- sweep is due, and said of the first lease only; unknown, which lease.lua has to decide. The time at which to check a
-- lease again stays: the sweep that checks it then finds it renewed. At maxmemory, a field "memory full" of the leases
-- says since when it is reached, and when a heartbeat found that last: "<since_ms> <last_ms>", for operators.

local names, entry, reply = {ARGV[1]}, {}, {redis.call('HGET', KEYS[1], 'epoch'), feed_end(KEYS[3])}
for i = 5, #ARGV, 4 do names[#names + 1] = ARGV[i] end
local count = #names
names[count + 1] = 'last sweep'
local found, time = redis.call('HMGET', KEYS[2], unpack(names)), redis.call('TIME')
local now_ms = time[1] .. string.sub('00000' .. time[2], -6, -4)
for i = 1, count do
  local at, lease = i * 4 - 3, found[i]
  if lease and string.find(lease, ARGV[at + 1] .. ' ', 1, true) == 1 then
    local n = #entry
    entry[n + 1] = ARGV[at]
    entry[n + 2] = ARGV[at + 1] .. ' ' .. ARGV[at + 2] .. ' ' .. ARGV[at + 3] .. ' ' .. now_ms .. ' 0'
    reply[i + 4] = 'held'
  else
    reply[i + 4] = 'unknown'
  end
end
if #entry > 0 and type(redis.pcall('HSET', KEYS[2], unpack(entry))) == 'table' then
  redis.call('HDEL', KEYS[2], '')  -- at maxmemory: as in fail_room.lua, but without a cost for the usual heartbeat
  redis.call('HSET', KEYS[2], unpack(entry))
  local since_ms, last_ms = string.match(redis.call('HGET', KEYS[2], 'memory full') or '', '^(%d+) (%d+)$')
  if not last_ms or now_ms - last_ms > math.max(60000, ARGV[3]) then since_ms = now_ms end
  redis.call('HSET', KEYS[2], 'memory full', since_ms .. ' ' .. now_ms)
end
local last_sweep_ms = string.match(found[count + 1] or '', '^%d+$')
if reply[5] == 'held' and (not last_sweep_ms or math.abs(now_ms - last_sweep_ms) >= 100) then reply[5] = 'due' end
return reply
