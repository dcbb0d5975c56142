-- Fail each room for a reason, in one step. A reason that is already there is the first cause and stays.
-- Times are milliseconds.
--
-- KEYS   each: room, prefix in mode prefill
-- ARGV   terminal_ttl_ms; each: reason
-- REPLY  each: outcome, status
-- FEED   nothing
-- CODES  3 UNCHANGED, 4 FAILED, 5 SKIPPED

local count = #ARGV - 1
local step = #KEYS / count
local now
local reply = {}

for i = 1, count do
  local room = KEYS[(i - 1) * step + 1]
  local current = redis.call('HGET', room, 'status')
  local outcome = 3
  if step == 2 then redis.call('HDEL', KEYS[i * 2], 'length') end
  if not current then
    outcome = 5
  elseif current ~= 'Failed' then
    if not now then
      local time = redis.call('TIME')
      now = time[1] .. string.sub('00000' .. time[2], -6, -4)
    end
    outcome, current = 4, 'Failed'
    redis.call('HSET', room, 'status', 'Failed', 'updated_ms', now)
    redis.call('HSETNX', room, 'reason', ARGV[i + 1])
    redis.call('PEXPIRE', room, ARGV[1])
  end
  reply[i * 2 - 1], reply[i * 2] = outcome, current
end
return reply
