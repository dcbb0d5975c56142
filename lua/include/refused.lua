-- Count the writes that a call has refused, by outcome, for statistics.
--
-- INCLUDE  changes
--
-- Goes after the including script, before feed.lua. refused has how many rooms had each outcome, or is nil: a call that
-- refuses nothing comes here for nothing else. What the server does not take (at maxmemory; a key of another type, made
-- by hand) is not counted: the call goes on. The key is not declared: while a cluster moves the slot, a declared key
-- that is not there makes every call wait.

if refused then
  local refused_key = string.sub(KEYS[1], 1, -5) .. 'refused'  -- KEYS[1] ends with feed
  local NAMES = {[5] = 'skipped', [6] = 'stale', [-1] = 'busy', [-2] = 'lease', [-3] = 'world_size'}
  for outcome, count in pairs(refused) do
    if NAMES[outcome] then redis.pcall('HINCRBY', refused_key, NAMES[outcome], string.format('%d', count)) end
  end
  redis.pcall('PEXPIRE', refused_key, '604800000')  -- a week
end
