-- What one rank says, added to what the fast path of write_ranks.lua is to do for its room.
--
-- INCLUDE  order, quick_ranks

-- Adds the rank whose words follow ARGV[at], with its status and the holder of its part. Returns whether it is usual.
local function add_quick(at, own, holder)
  local field, owner, incarnation, status, n = ARGV[at + 1], ARGV[at + 3], ARGV[at + 4], ARGV[at + 5], size
  local from, to = own and ORDER[own] or 0, ORDER[status] or 0
  if is_clear then
    if status ~= 'absent' or from == 0 then return false end
    counts[6], common, changed, size = counts[6] + 1, 'absent', changed + 1, n + 2
    words[changed], outcome = string.sub(field, 8), '7 ' .. own
    entry[n + 1], entry[n + 2], gone[n + 1], gone[n + 2] = 'cleared:' .. words[changed], own, field, ARGV[at + 2]
    lengths[changed] = 'length:' .. words[changed]
    return true
  end
  if to == 0 or (own and from == 0) or (not own and (counts[6] ~= '0' or to > 2)) then return false end
  if owner ~= '' and incarnations[owner] ~= incarnation then return false end
  if ARGV[at + 6] ~= '' then
    local k = #lengths
    lengths[k + 1], lengths[k + 2] = 'length:' .. string.sub(field, 8), ARGV[at + 6]
  end
  outcome = from >= to and '3 ' .. own or (own and '2 ' or '1 ') .. status
  if from >= to then return true end
  if common and common ~= status then return false end
  if own then counts[from] = counts[from] - 1 end
  common, changed, size = status, changed + 1, n + 2
  counts[to], entry[n + 1], entry[n + 2], words[changed] = counts[to] + 1, field, status, string.sub(field, 8)
  if to == 4 then
    gone[#gone + 1] = ARGV[at + 2]
  elseif owner ~= '' and holder ~= incarnation then
    entry[n + 3], entry[n + 4], holders[#holders + 1], size = ARGV[at + 2], incarnation, incarnation, n + 4
  end
  return true
end
