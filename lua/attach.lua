-- Read the live generation of each room, and how the caller's rank sees it.
--
-- KEYS   epoch; each: room, prefix
-- ARGV   rank
-- REPLY  epoch; each: status, generation, request, length
-- FEED   nothing
--
-- The decode prefix length is this generation's, or one that was recorded for the room without any. A key of another
-- type (made by hand) puts its error in the place of its status or its length.

local rank = ARGV[1]
local own, length = 'status', 'length'
if rank ~= '' then own, length = 'status:' .. rank, 'length:' .. rank end
local reply = {redis.call('HGET', KEYS[1], 'epoch')}
for i = 2, #KEYS, 2 do
  local there = redis.pcall('HMGET', KEYS[i], 'status', 'generation', 'request', own, 'cleared:' .. rank)
  local prefix = redis.pcall('HMGET', KEYS[i + 1], length, 'generation')
  local status = there.err and there or there[4]
  if there[1] == 'Failed' and not there[5] then status = 'Failed' end
  local n = #reply
  reply[n + 1], reply[n + 2], reply[n + 3] = status, there[2] or false, there[3] or false
  reply[n + 4] = prefix.err and prefix or ((not prefix[2] or prefix[2] == there[2]) and prefix[1])
end
return reply
