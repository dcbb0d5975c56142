-- Renew a lease that is held: the heartbeat. Times are milliseconds.
--
-- KEYS     epoch, leases, feed
-- ARGV     owner, incarnation, lease_ttl_ms, heartbeat_ms
-- REPLY    epoch, feed_id, room, status, state, incarnation; each: finding, subject, reason
-- FEED     nothing
-- INCLUDE  feed_end
--
-- The hot script of leases, a half of the cost of lease.lua, which does the rest. state: held, or unknown; then
-- lease.lua has to decide. finding: sweep, when one is due. The time at which to look at the lease again stays: the
-- sweep that looks then finds it renewed.

local found = redis.call('HMGET', KEYS[2], ARGV[1], 'last sweep')
local time = redis.call('TIME')
local now_ms = time[1] .. string.sub('00000' .. time[2], -6, -4)
local state, last_sweep_ms = 'unknown', string.match(found[2] or '', '^%d+$')
if found[1] and string.find(found[1], ARGV[2] .. ' ', 1, true) == 1 then
  local record = ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. ARGV[4] .. ' ' .. now_ms .. ' 0'
  if type(redis.pcall('HSET', KEYS[2], ARGV[1], record)) == 'table' then
    redis.call('HDEL', KEYS[2], '')  -- at maxmemory: as in fail_room.lua, but without a cost for the usual heartbeat
    redis.call('HSET', KEYS[2], ARGV[1], record)
  end
  state = 'held'
end
local feed_id, room, status = feed_end(KEYS[3])
local reply = {redis.call('HGET', KEYS[1], 'epoch'), feed_id, room, status, state, ARGV[2]}
if not last_sweep_ms or math.abs(now_ms - last_sweep_ms) >= 100 then reply[7], reply[8], reply[9] = 'sweep', '', '' end
return reply
