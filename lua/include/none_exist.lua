-- Whether keys are absent, asked for many at once: of the rooms in a replay, most are after a loss of all data.

-- Returns whether none of count KEYS from first on exists.
local function none_exist(first, count)
  local chunk = {}
  for k = first, first + count - 1 do chunk[k - first + 1] = KEYS[k] end
  return redis.call('EXISTS', KEYS[first], unpack(chunk)) == 0
end
